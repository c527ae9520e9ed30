use crate::plan::{Row, StepOutput};
use crate::request::Request;
use crate::testing::{Rig, config, full_group, greedy, pooling, request, toy_groups};
use crate::{Event, FinishReason, RequestError, SamplingParams, toy};
use proptest::prelude::*;
use std::time::Duration;

/// `rig` with requests 0, 1, ... of these lengths, which give 3 tokens each.
fn rig(blocks: usize, prompts: &[usize]) -> Rig {
    let mut rig = Rig::fake(config(full_group(), blocks));
    for (client, &len) in prompts.iter().enumerate() {
        rig.scheduler.add(distinct(client as u32, len, 3));
    }
    rig
}

/// A request that shares no prefix with others.
fn distinct(client: u32, len: usize, max_tokens: usize) -> Request {
    let prompt = vec![1000 + client; len];
    request(client, &prompt, greedy(max_tokens))
}

#[test]
fn running_go_first_and_prompts_are_cut_to_the_budget() {
    let mut rig = rig(100, &[10, 10, 5]);
    // Budget 16: the first prompt, and a part of the second.
    assert_eq!(rig.step(), [(0, 0, 10), (1, 0, 6)]);
    // Its rest beside the first one's newest token; then who waits.
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 4), (2, 0, 5)]);
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 1), (2, 0, 1)]);
    rig.run();
    assert!(rig.ends().values().all(|&end| end == FinishReason::Length));
    assert_eq!(rig.tokens()[&(0, 0)], [10, 11, 12]);
}

#[test]
fn beside_generation_prompts_get_a_part_of_the_step() {
    let mut config = config(full_group(), 100);
    config.max_beside = 4;
    let mut rig = Rig::fake(config);
    for (client, len) in [(0, 10), (1, 9), (2, 3)] {
        rig.scheduler.add(distinct(client, len, 5));
    }
    // Nobody generates yet: the whole budget.
    assert_eq!(rig.step(), [(0, 0, 10), (1, 0, 6)]);
    // The rest of the second prompt, and one token of the third.
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 3), (2, 0, 1)]);
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 1), (2, 0, 2)]);
    // Who comes now waits for room, and a long prompt does not keep those who generate from going on.
    rig.scheduler.add(distinct(3, 9, 1));
    rig.scheduler.add(distinct(4, 9, 1));
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 4)]);
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 4)]);
    rig.run();
    assert_eq!(rig.ends().len(), 5);
}

#[test]
fn a_model_that_takes_prompts_whole_has_no_part_for_them() {
    let mut config = config(full_group(), 100);
    (config.max_beside, config.chunked) = (4, false);
    let mut rig = Rig::fake(config);
    rig.scheduler.add(distinct(0, 3, 5));
    rig.step();
    rig.scheduler.add(distinct(1, 9, 1));
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 9)]);
}

#[test]
fn no_more_run_than_may() {
    let mut config = config(full_group(), 100);
    config.max_running = 2;
    let mut rig = Rig::fake(config);
    for client in 0..4 {
        rig.scheduler.add(distinct(client, 2, 2));
    }
    assert_eq!(rig.step().len(), 2);
    assert_eq!(rig.scheduler.stats().waiting, 2);
    rig.run();
    assert_eq!(rig.ends().len(), 4);
}

#[test]
fn lower_priority_values_go_first_then_arrival() {
    let mut config = config(full_group(), 100);
    config.max_running = 1;
    let mut rig = Rig::fake(config);
    for (client, priority) in [(0, 5), (1, -1), (2, 5), (3, -1)] {
        let mut request = distinct(client, 2, 1);
        request.order.priority = priority;
        rig.scheduler.add(request);
    }
    let order: Vec<_> = (0..4).map(|_| rig.step()[0].0).collect();
    assert_eq!(order, [1, 3, 0, 2]);
}

#[test]
fn who_cannot_grow_preempts_the_last_and_nobody_is_admitted() {
    // Four blocks: two requests of two blocks each; the first needs a third when it has 8 tokens.
    let mut rig = Rig::fake(config(full_group(), 4));
    rig.scheduler.add(distinct(0, 7, 6));
    rig.scheduler.add(distinct(1, 6, 6));
    assert_eq!(rig.step(), [(0, 0, 7), (1, 0, 6)]);
    assert_eq!(rig.step(), [(0, 0, 1), (1, 0, 1)]);
    rig.scheduler.add(distinct(2, 1, 1));
    assert_eq!(rig.step(), [(0, 0, 1)]);
    assert_eq!(
        (rig.plan.preempted, rig.scheduler.stats().preemptions),
        (1, 1)
    );
    let stats = rig.scheduler.stats();
    assert_eq!((stats.running, stats.waiting), (1, 2));
    // The preempted one is at the head: it does not fit yet, so the newcomer waits behind it.
    assert_eq!(rig.step(), [(0, 0, 1)]);
    rig.run();
    // It goes on where it was, token for token.
    assert_eq!(rig.tokens()[&(1, 0)], [6, 7, 8, 9, 10, 11]);
    assert_eq!(rig.ends().len(), 3);
}

#[test]
fn the_victim_is_the_last_in_priority_even_if_it_is_the_one_that_grows() {
    let mut rig = Rig::fake(config(full_group(), 4));
    let mut low = distinct(0, 7, 6);
    low.order.priority = 9;
    rig.scheduler.add(low);
    rig.scheduler.add(distinct(1, 6, 6));
    rig.step();
    rig.step();
    // Request 0 needs a block, but it is the least important one; the other goes on in the same step.
    assert_eq!(rig.step(), [(1, 0, 1)]);
    rig.run();
    assert_eq!(rig.tokens()[&(0, 0)].len(), 6);
}

#[test]
fn a_victim_that_was_planned_gives_its_tokens_back() {
    let mut rig = Rig::fake(config(full_group(), 4));
    let mut low = distinct(0, 6, 9);
    low.order.priority = 9;
    rig.scheduler.add(low);
    rig.scheduler.add(distinct(1, 7, 6));
    // The important one is admitted first.
    assert_eq!(rig.step(), [(1, 0, 7), (0, 0, 6)]);
    rig.step();
    assert_eq!(rig.step(), [(1, 0, 1)]);
    assert_eq!(rig.plan.tokens, 1);
    rig.run();
}

#[test]
fn a_watermark_holds_only_while_something_runs() {
    let mut config = config(full_group(), 8);
    config.cache.watermark = 0.5;
    let mut rig = Rig::fake(config);
    rig.scheduler.add(distinct(0, 16, 16));
    rig.scheduler.add(distinct(1, 4, 1));
    // The first takes half and more: nothing runs, so nothing is kept back.
    assert_eq!(rig.step(), [(0, 0, 16)]);
    assert_eq!(rig.step(), [(0, 0, 1)]);
    rig.run();
    assert_eq!(rig.ends().len(), 2);
}

#[test]
fn a_prompt_that_does_not_fit_as_a_whole_waits() {
    let mut rig = rig(5, &[12, 12]);
    // 12 tokens are 3 blocks each, and 2 are left.
    assert_eq!(rig.step(), [(0, 0, 12)]);
    rig.run();
    assert_eq!(rig.scheduler.stats().preemptions, 0);
}

/// Requests of these lengths for an encoder; a step takes 16 tokens.
fn encoder(lens: &[usize]) -> Rig {
    let mut config = config(Vec::new(), 0);
    config.chunked = false;
    let mut rig = Rig::fake(config);
    for (client, &len) in lens.iter().enumerate() {
        rig.scheduler.add(pooling(client as u32, &vec![1; len]));
    }
    rig
}

/// A step of an encoder: who is in it, and how many tokens each has.
fn pool(rig: &mut Rig) -> Vec<(u32, usize)> {
    rig.scheduler.schedule(rig.now, &mut rig.plan);
    let requests = rig.scheduler.requests();
    let entries = rig.plan.entries.iter();
    let planned: Vec<_> = entries
        .map(|e| (requests[e.id].client, e.num_scheduled))
        .collect();
    let rows = (0..planned.len()).map(|i| Row::Pooled(vec![i as f32]));
    let mut rows = StepOutput {
        rows: rows.collect(),
    };
    rig.scheduler
        .update(&rig.plan, &mut rows, rig.now, &mut rig.out);
    planned
}

/// A request that fills a step is not overtaken by short ones that would still fit, however many keep coming.
#[test]
fn a_long_input_is_not_starved_by_short_ones() {
    let mut rig = encoder(&[3, 16, 3]);
    assert_eq!(pool(&mut rig), [(0, 3)]);
    for client in 3..6 {
        rig.scheduler.add(pooling(client, &[1; 3]));
    }
    assert_eq!(pool(&mut rig), [(1, 16)]);
    // Then those behind it, together: a step begins with what there is.
    assert_eq!(pool(&mut rig), [(2, 3), (3, 3), (4, 3), (5, 3)]);
    assert!(rig.scheduler.is_idle());
    rig.scheduler.add(pooling(6, &[1]));
    assert_eq!(
        pool(&mut rig),
        [(6, 1)],
        "one alone does not wait for others"
    );
}

#[test]
fn encoders_are_never_cut_and_end_in_their_step() {
    let mut rig = encoder(&[10, 7, 2]);
    for expected in [vec![(0, 10)], vec![(1, 7), (2, 2)]] {
        assert_eq!(pool(&mut rig), expected);
    }
    assert!(rig.scheduler.is_idle());
    let pooled = |o: &&crate::scheduler::Output| matches!(o.event, Event::Pooled { .. });
    assert_eq!(rig.out.iter().filter(pooled).count(), 3);
    assert_eq!(rig.scheduler.stats().finished_pooled, 3);
}

#[test]
fn the_prompt_of_n_continuations_is_computed_once() {
    let mut rig = Rig::fake(config(full_group(), 100));
    let params = SamplingParams { n: 4, ..greedy(5) };
    rig.scheduler.add(request(0, &[1; 10], params));
    rig.run();
    let lengths: Vec<_> = rig.tokens().values().map(Vec::len).collect();
    assert_eq!(lengths, [5; 4]);
    assert_eq!(rig.scheduler.stats().computed_tokens, 10 + 4 * (5 - 1));
    assert_eq!(rig.scheduler.stats().prompt_tokens, 10);
    assert_eq!(rig.ends().len(), 4);
}

#[test]
fn continuations_that_find_no_place_or_block_wait() {
    for (max_running, blocks) in [(2, 100), (8, 4), (1, 4)] {
        let mut config = config(full_group(), blocks);
        config.max_running = max_running;
        let mut rig = Rig::fake(config);
        let params = SamplingParams { n: 5, ..greedy(4) };
        rig.scheduler.add(request(0, &[1; 10], params));
        rig.run();
        let tokens: Vec<_> = rig.tokens().into_values().collect();
        assert_eq!(
            tokens,
            vec![vec![10, 11, 12, 13]; 5],
            "{max_running} {blocks}"
        );
    }
}

#[test]
fn stops_are_by_id_and_after_min_tokens() {
    let check = |params: SamplingParams, tokens: &[u32], end: FinishReason| {
        let mut rig = Rig::fake(config(full_group(), 100));
        rig.scheduler
            .add(request(0, &[1; toy::EOS as usize - 2], params));
        rig.run();
        assert_eq!(rig.tokens()[&(0, 0)], tokens);
        assert_eq!(rig.ends()[&(0, 0)], end);
    };
    // The fake gives EOS - 2, EOS - 1, EOS, ...
    let all: Vec<u32> = (toy::EOS - 2..).take(5).collect();
    check(greedy(5), &all[..3], FinishReason::Stop);
    let ignoring = SamplingParams {
        ignore_eos: true,
        ..greedy(5)
    };
    check(ignoring, &all, FinishReason::Length);
    let with_stop = SamplingParams {
        stop_token_ids: vec![toy::EOS - 1],
        ..greedy(5)
    };
    check(with_stop.clone(), &all[..2], FinishReason::Stop);
    let later = SamplingParams {
        min_tokens: 2,
        ..with_stop
    };
    check(later, &all[..3], FinishReason::Stop);
    let latest = SamplingParams {
        min_tokens: 4,
        ..greedy(5)
    };
    check(latest, &all, FinishReason::Length);
}

/// A client left.
const LEFT: (u128, FinishReason) = (u128::MAX, FinishReason::Aborted);

#[test]
fn aborted_and_late_requests_give_their_blocks_back() {
    let mut rig = rig(100, &[10, 10]);
    rig.step();
    let now = rig.now;
    rig.scheduler.end_children(0, LEFT, now, &mut rig.out);
    rig.check();
    assert_eq!(rig.ends()[&(0, 0)], FinishReason::Aborted);
    let mut late = distinct(2, 5, 3);
    late.queue_deadline = Some(now + Duration::from_millis(5));
    let mut later = distinct(3, 5, 3);
    later.deadline = Some(now + Duration::from_millis(5));
    rig.scheduler.add(later);
    rig.step();
    rig.scheduler.add(late);
    rig.scheduler.expire(now, &mut rig.out);
    assert_eq!(rig.ends().len(), 1);
    rig.scheduler
        .expire(now + Duration::from_millis(5), &mut rig.out);
    let errors = rig.out.iter().filter_map(|o| match &o.event {
        Event::Failed(error) => Some((o.client, error.clone())),
        _ => None,
    });
    let mut errors = errors.collect::<Vec<_>>();
    errors.sort_by_key(|e| e.0);
    assert_eq!(
        errors,
        [
            (2, RequestError::QueueDeadline),
            (3, RequestError::Deadline)
        ]
    );
    // A queue deadline means nothing once the request has started.
    let mut started = distinct(4, 5, 9);
    started.queue_deadline = Some(now + Duration::from_secs(1));
    rig.scheduler.add(started);
    rig.step();
    rig.scheduler
        .expire(now + Duration::from_secs(2), &mut rig.out);
    assert_eq!(
        rig.out
            .iter()
            .filter(|o| o.client == 4 && matches!(o.event, Event::Failed(_)))
            .count(),
        0
    );
    rig.run();
}

#[test]
fn one_continuation_can_be_ended() {
    let mut rig = Rig::fake(config(full_group(), 100));
    let params = SamplingParams { n: 3, ..greedy(5) };
    rig.scheduler.add(request(0, &[1; 10], params));
    let now = rig.now;
    let second = (0b010, FinishReason::Stop);
    // Not before there are any; all of them at once can be.
    rig.scheduler.end_children(0, second, now, &mut rig.out);
    rig.step();
    rig.scheduler.end_children(0, second, now, &mut rig.out);
    rig.run();
    let lengths: Vec<_> = rig.tokens().values().map(Vec::len).collect();
    assert_eq!(lengths, [5, 1, 5]);
    assert_eq!(rig.ends()[&(0, 1)], FinishReason::Stop);
    let stats = rig.scheduler.stats();
    let counts = (stats.finished_stop, stats.finished_aborted);
    assert_eq!(counts, (1, 0), "nobody left");
}

#[test]
fn a_row_that_is_not_finite_fails_its_request_only() {
    let mut rig = rig(100, &[5, 5]);
    rig.scheduler.schedule(rig.now, &mut rig.plan);
    let good = Row::Token {
        id: 9,
        logprob: None,
    };
    let mut rows = StepOutput {
        rows: vec![Row::Failed(RequestError::NotFinite), good],
    };
    rig.scheduler
        .update(&rig.plan, &mut rows, rig.now, &mut rig.out);
    rig.check();
    assert_eq!(rig.out[0].event, Event::Failed(RequestError::NotFinite));
    rig.run();
    assert_eq!(rig.tokens()[&(1, 0)].len(), 3);
}

#[test]
fn chunks_of_recurrent_models_end_where_a_state_can_be_kept() {
    let mut config = config(toy_groups(), 100);
    config.max_batch_tokens = 10;
    let mut rig = Rig::fake(config);
    rig.scheduler.add(distinct(0, 21, 1));
    let mut chunks = Vec::new();
    while !rig.scheduler.is_idle() {
        chunks.push(rig.step()[0].2);
    }
    assert_eq!(chunks, [8, 8, 5]);
}

#[derive(Debug, Clone)]
enum Act {
    Submit {
        prompt: Vec<u32>,
        n: u32,
        output: usize,
        priority: i32,
    },
    Step,
    Abort(u32),
    Fail(u32),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let submit = (
        prop::collection::vec(0..2u32, 1..24),
        1..4u32,
        1..12usize,
        -1..2,
    );
    let submit = submit.prop_map(|(prompt, n, output, priority)| Act::Submit {
        prompt,
        n,
        output,
        priority,
    });
    let act = prop_oneof![
        3 => submit,
        6 => Just(Act::Step),
        1 => (0..40u32).prop_map(Act::Abort),
        1 => (0..40u32).prop_map(Act::Fail),
    ];
    prop::collection::vec(act, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    // Two different tokens, so that prefixes meet all the time; a pool that one request can fill.
    #[test]
    fn invariants_hold_whatever_happens(
        acts in acts(),
        blocks in 9..16usize,
        max_running in 1..6usize,
        budget in 1..20usize,
        kinds in 0..4usize,
        prefix_cache: bool,
    ) {
        let groups = match kinds {
            3 => toy_groups(),
            kind => vec![toy_groups()[kind]],
        };
        let mut config = config(groups, blocks);
        (config.max_running, config.max_batch_tokens) = (max_running, budget);
        (config.cache.prefix_cache, config.cache.max_step) = (prefix_cache, budget);
        let mut rig = Rig::fake(config);
        let (mut submitted, mut children) = (0, 0);
        for act in acts {
            let now = rig.now;
            match act {
                Act::Submit { prompt, n, output, priority } => {
                    let params = SamplingParams { n, ..greedy(output) };
                    let mut request = request(submitted, &prompt, params);
                    request.order.priority = priority;
                    rig.scheduler.add(request);
                    submitted += 1;
                    children += n as usize;
                }
                Act::Step => drop(rig.step()),
                Act::Abort(client) => rig.scheduler.end_children(client, LEFT, now, &mut rig.out),
                Act::Fail(client) => rig.scheduler.fail(client, RequestError::NotFinite, &mut rig.out),
            }
            rig.check();
        }
        rig.run();
        // Everybody has heard exactly one end per continuation, or one failure.
        let failed: Vec<_> = rig.out.iter().filter(|o| matches!(o.event, Event::Failed(_))).map(|o| o.client).collect();
        let ended = rig.out.iter().filter(|o| matches!(o.event, Event::Finished { .. })).count();
        prop_assert!(ended <= children);
        let mut heard: Vec<u32> = rig.out.iter().filter(|o| !matches!(o.event, Event::Token { .. })).map(|o| o.client).collect();
        heard.sort_unstable();
        heard.dedup();
        prop_assert_eq!(heard.len(), submitted as usize);
        if failed.is_empty() {
            prop_assert_eq!(ended, children);
        }
    }
}
