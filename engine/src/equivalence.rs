//! Toy-model equivalence: whatever is scheduled, cut, shared, preempted or forked, a request's tokens are those that the
//! toy gives for its tokens alone.

use crate::SamplingParams;
use crate::logits::Penalties;
use crate::plan::StepPlan;
use crate::sampler::{Noise, Sampler};
use crate::testing::{Rig, config, greedy, request, toy_groups};
use crate::toy;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Continuation `child`, computed from the tokens alone.
fn expected(prompt: &[u32], params: &SamplingParams, child: u32) -> Vec<u32> {
    let mut sampler = Sampler::default();
    let mut tokens = prompt.to_vec();
    for position in 0..params.max_tokens.unwrap() {
        let noise = Noise {
            seed: params.seed,
            child,
            position: position as u64,
        };
        let row = edited(&tokens, prompt.len(), params);
        let id = sampler.sample(&row, params, noise);
        tokens.push(id);
        if id == toy::EOS {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

/// The logits after `tokens`, the first `prompt` of them the prompt, with biases and penalties: by counting all tokens.
fn edited(tokens: &[u32], prompt: usize, params: &SamplingParams) -> Vec<f32> {
    let mut row = toy::logits_after(tokens);
    let penalties = params.penalties;
    for (id, x) in (0..).zip(&mut row) {
        let count = |tokens: &[u32]| tokens.iter().filter(|&&t| t == id).count();
        let bias = params.bias.iter().filter(|bias| bias.0 == id);
        *x += bias.map(|bias| bias.1).sum::<f32>();
        if count(tokens) > 0 && penalties.repetition != 1.0 {
            *x = if *x > 0.0 {
                *x / penalties.repetition
            } else {
                *x * penalties.repetition
            };
        }
        let times = count(&tokens[prompt..]);
        if times > 0 {
            *x -= penalties.frequency * times as f32;
            *x -= penalties.presence;
        }
    }
    row
}

#[derive(Debug, Clone)]
struct Load {
    prompt: Vec<u32>,
    params: SamplingParams,
    priority: i32,
    /// Steps before the next one comes.
    pause: usize,
}

fn load() -> impl Strategy<Value = Load> {
    let parts = (
        prop::collection::vec(97..99u32, 1..30),
        1..4u32,
        1..12usize,
        -1..2i32,
        0..4usize,
        any::<bool>(),
        any::<u64>(),
        prop::sample::select(vec![Penalties::NONE, PENALTIES]),
    );
    parts.prop_map(
        |(prompt, n, output, priority, pause, noisy, seed, penalties)| Load {
            prompt,
            params: SamplingParams {
                n,
                temperature: if noisy { 1.0 } else { 0.0 },
                seed,
                penalties,
                bias: if noisy { vec![(99, 2.5)] } else { Vec::new() },
                ..greedy(output)
            },
            priority,
            pause,
        },
    )
}

const PENALTIES: Penalties = Penalties {
    frequency: 0.75,
    presence: 0.5,
    repetition: 1.25,
};

/// Runs `loads` and says what differs from [`expected`]. `spoil` may damage each plan.
fn differences(
    rig: &mut Rig,
    loads: &[Load],
    mut spoil: impl FnMut(&mut StepPlan),
) -> Vec<(u32, u32)> {
    let mut wanted = BTreeMap::new();
    for (client, load) in loads.iter().enumerate() {
        let client = client as u32;
        let mut request = request(client, &load.prompt, load.params.clone());
        request.order.priority = load.priority;
        rig.scheduler.add(request);
        for child in 0..load.params.n {
            let tokens = expected(&load.prompt, &load.params, child);
            wanted.insert((client, child), tokens);
        }
        for _ in 0..load.pause {
            if !rig.scheduler.is_idle() {
                rig.step_with(&mut spoil);
            }
        }
    }
    while !rig.scheduler.is_idle() {
        rig.step_with(&mut spoil);
    }
    let got = rig.tokens();
    let differs = |key: &&(u32, u32)| got.get(key) != wanted.get(key);
    wanted.keys().filter(differs).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn tokens_do_not_depend_on_the_schedule(
        loads in prop::collection::vec(load(), 1..10),
        blocks in 11..30usize,
        max_running in 1..7usize,
        budget in 1..24usize,
        prefix_cache: bool,
    ) {
        let mut config = config(toy_groups(), blocks);
        (config.max_running, config.max_batch_tokens) = (max_running, budget);
        (config.cache.prefix_cache, config.cache.max_step) = (prefix_cache, budget);
        let mut rig = Rig::toy(config, 0);
        prop_assert_eq!(differences(&mut rig, &loads, |_| {}), []);
    }
}

/// What a request gets where the next step is planned while one is computed, by a model that tells how many tokens there were.
fn outcome_ahead(rig: &mut Rig, loads: &[Load]) -> BTreeMap<(u32, u32), Vec<u32>> {
    for (client, load) in loads.iter().enumerate() {
        let mut request = request(client as u32, &load.prompt, load.params.clone());
        request.order.priority = load.priority;
        rig.scheduler.add(request);
        for _ in 0..load.pause {
            if !rig.scheduler.is_idle() {
                rig.step();
            }
        }
    }
    rig.run();
    rig.tokens()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 120, ..ProptestConfig::default() })]

    /// The cache's book-keeping is proven anew after every step.
    #[test]
    fn planning_ahead_changes_no_token(
        loads in prop::collection::vec(load(), 1..10),
        blocks in 11..30usize,
        max_running in 1..7usize,
        budget in 1..24usize,
        prefix_cache: bool,
        windows: bool,
    ) {
        // Full attention, and with it one with a window.
        let groups = toy_groups()[..=usize::from(windows)].to_vec();
        let mut config = config(groups, blocks);
        (config.max_running, config.max_batch_tokens) = (max_running, budget);
        (config.cache.prefix_cache, config.cache.max_step) = (prefix_cache, budget);
        // Ids beyond the prompts' lengths: some end a generation.
        config.eos_ids = vec![9, 17];
        let mut plain = Rig::fake(config.clone());
        let mut ahead = Rig::fake(config);
        ahead.ahead = true;
        prop_assert_eq!(outcome_ahead(&mut plain, &loads), outcome_ahead(&mut ahead, &loads));
        let (plain, ahead) = (plain.scheduler.stats(), ahead.scheduler.stats());
        prop_assert_eq!(plain.generation_tokens, ahead.generation_tokens);
        prop_assert_eq!((ahead.blocks_used, ahead.running, ahead.waiting), (0, 0, 0));
    }
}

/// Who ends with the step that is computed is not in the next one, whoever decides it, and whoever comes meanwhile is.
#[test]
fn a_plan_ahead_loses_who_ends_and_gains_who_comes() {
    let mut rig = Rig::fake(config(toy_groups()[..1].to_vec(), 40));
    rig.ahead = true;
    let (mut long, short) = (greedy(20), greedy(3));
    long.ignore_eos = true;
    for (client, params) in [(0, &long), (1, &short), (2, &long)] {
        let prompt = [97 + client; 4];
        rig.scheduler.add(request(client, &prompt, params.clone()));
    }
    assert_eq!(rig.step().len(), 3);
    assert!(rig.scheduler.is_planned());
    rig.step();
    // The second ends with its third token, which was known when the next step was planned.
    rig.step();
    assert_eq!(rig.step().len(), 2);
    // One leaves after the next step was planned, another comes.
    rig.scheduler
        .end_children(2, (1, crate::FinishReason::Aborted), rig.now, &mut rig.out);
    rig.scheduler.add(request(3, &[120; 4], long));
    let step = rig.step();
    assert_eq!(step, [(0, 0, 1), (3, 0, 4)]);
    // All leave: nothing is left of the plan.
    for client in [0, 3] {
        rig.scheduler.end_children(
            client,
            (1, crate::FinishReason::Aborted),
            rig.now,
            &mut rig.out,
        );
    }
    assert!(rig.scheduler.is_idle() && !rig.scheduler.is_planned());
    rig.check();
}

/// A step that fails takes its requests along, and what was planned of them.
#[test]
fn a_failed_step_takes_the_plan_of_its_requests_along() {
    let mut rig = Rig::fake(config(toy_groups()[..1].to_vec(), 40));
    rig.scheduler.add(request(0, &[97; 4], greedy(9)));
    rig.step();
    rig.scheduler.schedule(rig.now, &mut rig.plan);
    rig.scheduler.plan_ahead(rig.now, &mut rig.plan);
    assert!(rig.scheduler.is_planned());
    let error = crate::RequestError::NotFinite;
    rig.scheduler.fail_step(&rig.plan, &error, &mut rig.out);
    assert!(rig.scheduler.is_idle() && !rig.scheduler.is_planned());
    rig.scheduler.add(request(1, &[98; 4], greedy(2)));
    rig.run();
    rig.check();
}

/// A load that forks, shares prefixes, cuts prompts and preempts in a pool of 12 blocks.
fn hard_load() -> Vec<Load> {
    (0..8)
        .map(|i| Load {
            prompt: (0..14 + i).map(|at| 97 + (at / 9) as u32).collect(),
            params: SamplingParams {
                n: 1 + i as u32 % 3,
                temperature: 1.0,
                seed: i as u64,
                ignore_eos: false,
                penalties: PENALTIES,
                ..greedy(10)
            },
            priority: 0,
            pause: 2,
        })
        .collect()
}

#[test]
fn the_hard_load_forks_shares_and_preempts_and_is_right() {
    let mut rig = Rig::toy(config(toy_groups(), 12), 0);
    let mut copies = 0;
    let wrong = differences(&mut rig, &hard_load(), |plan| copies += plan.copies.len());
    assert_eq!(wrong, []);
    let stats = rig.scheduler.stats();
    assert!(copies > 0, "no fork copied a block");
    assert!(stats.prefix_hits > 0 && stats.preemptions > 0, "{stats:?}");
}

/// The same on a device: keys, values and states lie there, and it chooses. States that stay where they were are noticed.
#[cfg(feature = "cuda-emu")]
#[test]
fn the_hard_load_is_right_on_a_device() {
    use koma_models::kernels::cuda::{Gpu, stand_in::Device};
    use koma_models::kernels::{Class, Cx, Isa, Team};
    use std::sync::Arc;
    let device = Device::new();
    let gpu = Gpu::open(device.number(), 0.9).expect("a device of the stand-in");
    let cx = || {
        let cx = Cx::new(Arc::new(Team::new(1)), Class::Throughput, Isa::Portable);
        cx.on(&gpu).expect("a stream")
    };
    let mut rig = Rig::toy_on(cx(), config(toy_groups(), 12), 0);
    let mut copies = 0;
    let wrong = differences(&mut rig, &hard_load(), |plan| copies += plan.copies.len());
    assert_eq!(wrong, []);
    let stats = rig.scheduler.stats();
    assert!(copies > 0, "no fork copied a block");
    assert!(stats.prefix_hits > 0 && stats.preemptions > 0, "{stats:?}");
    assert!(device.count("launch:mix_states") > 20, "states are there");
    let mut rig = Rig::toy_on(cx(), config(toy_groups(), 12), 0);
    let wrong = differences(&mut rig, &hard_load(), |plan| plan.copies.clear());
    assert!(!wrong.is_empty(), "the control");
}

#[test]
fn negative_control_a_wrong_slot_is_noticed() {
    let mut rig = Rig::toy(config(toy_groups(), 12), 1);
    assert!(!differences(&mut rig, &hard_load(), |_| {}).is_empty());
}

#[test]
fn negative_control_forgotten_counts_are_noticed() {
    let mut rig = Rig::toy(config(toy_groups(), 12), 0);
    let mut loads = hard_load();
    let mut wanted = BTreeMap::new();
    for (client, load) in loads.iter_mut().enumerate() {
        load.params.n = 1;
        let mut request = request(client as u32, &load.prompt, load.params.clone());
        request.tally = crate::tally::Tally::default();
        rig.scheduler.add(request);
        let tokens = expected(&load.prompt, &load.params, 0);
        wanted.insert((client as u32, 0), tokens);
    }
    rig.run();
    assert_ne!(rig.tokens(), wanted);
}

#[test]
fn negative_control_a_forgotten_copy_is_noticed() {
    let mut rig = Rig::toy(config(toy_groups(), 12), 0);
    let wrong = differences(&mut rig, &hard_load(), |plan| plan.copies.clear());
    assert!(!wrong.is_empty());
}

#[test]
fn n_continuations_cost_one_prompt() {
    let mut rig = Rig::toy(config(toy_groups(), 100), 0);
    let load = Load {
        prompt: (97..120).collect(),
        params: SamplingParams {
            n: 4,
            temperature: 1.0,
            ignore_eos: true,
            ..greedy(9)
        },
        priority: 0,
        pause: 0,
    };
    let prompt = load.prompt.len() as u64;
    differences(&mut rig, &[load], |_| {});
    let got = rig.tokens();
    assert_eq!(got.values().map(Vec::len).collect::<Vec<_>>(), [9; 4]);
    let distinct: std::collections::BTreeSet<_> = got.values().collect();
    assert!(distinct.len() > 1, "continuations have noise of their own");
    assert_eq!(rig.scheduler.stats().computed_tokens, prompt + 4 * (9 - 1));
}
