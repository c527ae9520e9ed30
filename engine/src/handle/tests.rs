use super::*;
use crate::testing::greedy;
use crate::toy::{self, Hook};
use crate::{Event, FinishReason, ParamError, RequestError, StopReason};
use koma_models::kernels::{Class, Cx, Error, Fault, KvDtype};
use koma_models::{Batch, Encoder, Workspace};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

fn config() -> EngineConfig {
    EngineConfig {
        max_running: 8,
        max_batch_tokens: 64,
        cache_bytes: 1 << 20,
        kv_dtype: KvDtype::F32,
        class: Class::Throughput,
        ..EngineConfig::default()
    }
}

fn start(loaded: Loaded, config: EngineConfig) -> EngineHandle {
    EngineHandle::start(loaded, config, Arc::new(Team::new(1)), Isa::Portable).unwrap()
}

fn generate(prompt: &[u32], params: SamplingParams) -> NewRequest {
    NewRequest {
        prompt: prompt.to_vec(),
        type_ids: Vec::new(),
        task: Task::Generate(params),
        priority: 0,
        queue_deadline: None,
        deadline: None,
        cache_salt: [0; 32],
    }
}

fn endless(max_tokens: usize) -> SamplingParams {
    SamplingParams {
        ignore_eos: true,
        ..greedy(max_tokens)
    }
}

fn all(mut stream: EventStream) -> Vec<Event> {
    std::iter::from_fn(|| stream.blocking_next()).collect()
}

fn ids(events: &[Event]) -> Vec<u32> {
    let id = |event: &Event| match event {
        Event::Token { id, .. } => Some(*id),
        _ => None,
    };
    events.iter().filter_map(id).collect()
}

/// A hook that stops at each forward until the test lets it go on, and tells the test that it has arrived.
fn gate() -> (Hook, mpsc::Receiver<usize>, mpsc::Sender<Result<(), Error>>) {
    let (arrived, seen) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let opened = Mutex::new(opened);
    let hook = move |batch: &Batch| {
        arrived.send(batch.requests()).unwrap_or_default();
        let opened = opened.lock().unwrap();
        // The test has dropped its end: everything may pass.
        opened.recv().unwrap_or(Ok(()))
    };
    (Arc::new(hook), seen, open)
}

#[test]
fn a_request_gives_its_tokens_and_its_end() {
    let engine = start(toy::decoder(), config());
    let prompt = engine.tokenizer().encode("hello", false).unwrap().ids;
    let events = all(engine.submit(generate(&prompt, greedy(200))).unwrap());
    let tokens = ids(&events);
    let Some(Event::Finished {
        child: 0,
        reason: FinishReason::Stop,
        stop: Some(StopReason::Eos),
        usage,
        ..
    }) = events.last()
    else {
        panic!("{events:?}");
    };
    assert_eq!((usage.prompt, usage.completion), (5, tokens.len()));
    assert_eq!(tokens.last(), Some(&toy::EOS));
    let mut wanted = prompt.clone();
    for &id in &tokens {
        let row = toy::logits_after(&wanted);
        assert!(row.iter().all(|&x| x <= row[id as usize]));
        wanted.push(id);
    }
    let stats = engine.stats();
    assert_eq!((stats.blocks_used, stats.running, stats.waiting), (0, 0, 0));
    assert_eq!(stats.finished_stop, 1);
    assert_eq!(stats.generation_tokens, tokens.len() as u64);
    let steps = engine.steps(usize::MAX);
    assert_eq!(steps.last().map(|record| record.step), Some(stats.steps));
    assert!(engine.health().alive && !engine.health().pending);
}

#[test]
fn many_clients_get_what_each_would_get_alone() {
    let engine = start(toy::decoder(), config());
    let params = |seed| SamplingParams {
        temperature: 1.0,
        seed,
        ..endless(20)
    };
    let prompt = |i: u64| vec![97 + i as u32 % 3; 30 + i as usize];
    let alone: Vec<_> = (0..12)
        .map(|i| {
            ids(&all(engine
                .submit(generate(&prompt(i), params(i)))
                .unwrap()))
        })
        .collect();
    let streams: Vec<_> = (0..12)
        .map(|i| engine.submit(generate(&prompt(i), params(i))).unwrap())
        .collect();
    let together: Vec<_> = streams.into_iter().map(|s| ids(&all(s))).collect();
    assert_eq!(alone, together);
    assert!(engine.stats().prefix_hits > 0);
}

#[test]
fn encoders_pool() {
    let engine = start(toy::encoder(), config());
    assert_eq!(engine.info().tasks, [TaskKind::Classify]);
    let pool = |prompt: &[u32], raw| NewRequest {
        task: Task::Pool(PoolingParams {
            raw,
            ..PoolingParams::default()
        }),
        ..generate(prompt, greedy(1))
    };
    let values = |request| {
        let events = all(engine.submit(request).unwrap());
        match &events[..] {
            [Event::Pooled { values, .. }] => values.clone(),
            other => panic!("{other:?}"),
        }
    };
    let probabilities = values(pool(&[5, 6, 7], false));
    let sum: f32 = probabilities.iter().sum();
    assert!(probabilities.len() == 3 && (sum - 1.0).abs() < 1e-5);
    let raw = values(pool(&[5, 6, 7], true));
    let mut activated = raw.clone();
    engine
        .info()
        .head
        .as_ref()
        .unwrap()
        .activate(&mut activated);
    assert_eq!(activated, probabilities);
    let segments = NewRequest {
        type_ids: vec![0, 1, 1],
        ..pool(&[5, 6, 7], true)
    };
    assert_ne!(values(segments), raw);
    assert!(matches!(
        engine.submit(pool(&[1; 65], false)),
        Err(SubmitError::NeverFits {
            needed: 65,
            available: 64,
            ..
        })
    ));
    assert!(matches!(
        engine.submit(generate(&[1], greedy(1))),
        Err(SubmitError::WrongTask { .. })
    ));
    assert_eq!(engine.stats().finished_pooled, 3);
}

#[test]
fn bad_submissions_are_refused_with_the_reason() {
    let engine = start(toy::decoder(), config());
    let refused = |request| engine.submit(request).unwrap_err();
    let field = |request| match refused(request) {
        SubmitError::Param(ParamError { field, .. }) => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(generate(&[], greedy(1))), "prompt");
    assert_eq!(
        field(generate(&[1, toy::VOCAB as u32], greedy(1))),
        "prompt"
    );
    let segments = NewRequest {
        type_ids: vec![0],
        ..generate(&[1, 2], greedy(1))
    };
    assert_eq!(field(segments), "type_ids");
    let (max, over) = (toy::MAX_LEN, toy::MAX_LEN + 1);
    for (prompt, output) in [
        (10, Some(max - 9)),
        (max, None),
        (over, None),
        (1, Some(usize::MAX)),
    ] {
        let params = SamplingParams {
            max_tokens: output,
            ..greedy(1)
        };
        let error = refused(generate(&vec![1; prompt], params));
        assert!(
            matches!(error, SubmitError::TooLong { .. }),
            "{prompt} {output:?}: {error}"
        );
    }
    let pool = NewRequest {
        task: Task::Pool(PoolingParams::default()),
        ..generate(&[1], greedy(1))
    };
    assert!(matches!(refused(pool), SubmitError::WrongTask { .. }));
    assert!(!engine.health().pending);
    // Without max_tokens, up to the window.
    let params = SamplingParams {
        max_tokens: None,
        ..endless(1)
    };
    let events = all(engine.submit(generate(&vec![1; max - 3], params)).unwrap());
    assert_eq!(ids(&events).len(), 3);
}

#[test]
fn a_cache_that_holds_less_than_one_request_is_refused() {
    let start = |config| {
        EngineHandle::start(
            toy::decoder(),
            config,
            Arc::new(Team::new(1)),
            Isa::Portable,
        )
    };
    let small = EngineConfig {
        cache_bytes: 4000,
        ..config()
    };
    let error = start(small).err().unwrap();
    let StartError::CacheTooSmall { needed, .. } = error else {
        panic!("{error}");
    };
    let enough = EngineConfig {
        cache_bytes: needed,
        ..config()
    };
    // Exactly that much serves a request of full length.
    let engine = start(enough).unwrap();
    let events = all(engine.submit(generate(&[1; 500], endless(12))).unwrap());
    assert_eq!(ids(&events).len(), 12);
    for broken in [
        EngineConfig {
            block_size: 0,
            ..config()
        },
        EngineConfig {
            watermark: f64::NAN,
            ..config()
        },
    ] {
        assert!(matches!(start(broken), Err(StartError::Config { .. })));
    }
}

#[test]
fn a_client_that_leaves_frees_its_blocks_within_a_step() {
    let (hook, seen, open) = gate();
    let engine = start(toy::decoder_with(hook), config());
    let mut stays = engine.submit(generate(&[1; 40], endless(5))).unwrap();
    assert_eq!(seen.recv(), Ok(1));
    let leaves = engine.submit(generate(&[2; 40], endless(400))).unwrap();
    open.send(Ok(())).unwrap();
    assert_eq!(seen.recv(), Ok(2));
    assert!(engine.stats().blocks_used > 0);
    drop(leaves);
    open.send(Ok(())).unwrap();
    // The next step is without it.
    assert_eq!(seen.recv(), Ok(1));
    assert_eq!(engine.stats().finished_aborted, 1);
    drop(open);
    while stays.blocking_next().is_some() {}
    let stats = engine.stats();
    assert_eq!((stats.blocks_used, stats.finished_length), (0, 1));
}

#[test]
fn requests_that_belong_together_share_their_first_step() {
    let (hook, seen, open) = gate();
    let engine = start(toy::decoder_with(hook), config());
    let requests = |n: u32| (1..=n).map(|id| generate(&[id; 10], endless(1)));
    let (streams, refused) = engine.submit_all(requests(3));
    assert!(streams.len() == 3 && refused.is_none());
    assert_eq!(seen.recv(), Ok(3));
    open.send(Ok(())).unwrap();
    // One that can never be served ends the list; those before it go on.
    let bad = generate(&[], endless(1));
    let list = requests(2).chain([bad]).chain(requests(1));
    let (some, refused) = engine.submit_all(list);
    assert_eq!(some.len(), 2);
    assert!(
        matches!(refused, Some(SubmitError::Param(_))),
        "{refused:?}"
    );
    assert_eq!(seen.recv(), Ok(2));
    drop(open);
    for stream in streams.into_iter().chain(some) {
        assert_eq!(ids(&all(stream)).len(), 1);
    }
}

#[test]
fn one_continuation_can_be_cancelled() {
    let (hook, seen, open) = gate();
    let engine = start(toy::decoder_with(hook), config());
    let params = SamplingParams {
        n: 2,
        temperature: 1.0,
        ..endless(4)
    };
    let stream = engine.submit(generate(&[1; 10], params)).unwrap();
    seen.recv().unwrap();
    open.send(Ok(())).unwrap();
    assert_eq!(seen.recv(), Ok(2));
    stream.cancel(1);
    open.send(Ok(())).unwrap();
    assert_eq!(seen.recv(), Ok(1));
    drop(open);
    let reasons: Vec<_> = all(stream)
        .into_iter()
        .filter_map(|event| match event {
            Event::Finished { child, reason, .. } => Some((child, reason)),
            _ => None,
        })
        .collect();
    assert_eq!(
        reasons,
        [(1, FinishReason::Stop), (0, FinishReason::Length)]
    );
    let stats = engine.stats();
    assert_eq!((stats.finished_stop, stats.finished_aborted), (1, 0));
}

#[test]
fn deadlines_and_priority() {
    let (hook, seen, open) = gate();
    let one = EngineConfig {
        max_running: 1,
        ..config()
    };
    let engine = start(toy::decoder_with(hook), one);
    let first = engine.submit(generate(&[1], endless(2))).unwrap();
    seen.recv().unwrap();
    let past = Some(Instant::now());
    let late = NewRequest {
        queue_deadline: past,
        ..generate(&[2], endless(1))
    };
    let later = NewRequest {
        deadline: past,
        ..generate(&[3], endless(1))
    };
    let urgent = NewRequest {
        priority: -1,
        ..generate(&[4], endless(1))
    };
    let [low, late, later, urgent] =
        [generate(&[5], endless(1)), late, later, urgent].map(|r| engine.submit(r).unwrap());
    assert!(engine.health().pending);
    drop(open);
    assert_eq!(all(late), [Event::Failed(RequestError::QueueDeadline)]);
    assert_eq!(all(later), [Event::Failed(RequestError::Deadline)]);
    let queued = |stream| match all(stream).pop() {
        Some(Event::Finished { timings, .. }) => timings.queued,
        other => panic!("{other:?}"),
    };
    // The urgent one came last and started before the other.
    let (urgent, low) = (queued(urgent), queued(low));
    assert!(urgent < low, "{urgent:?} {low:?}");
    assert_eq!(ids(&all(first)).len(), 2);
}

#[test]
fn a_full_queue_refuses() {
    let (hook, seen, open) = gate();
    let small = EngineConfig {
        max_running: 1,
        max_waiting: 2,
        ..config()
    };
    let engine = start(toy::decoder_with(hook), small);
    let submit = || engine.submit(generate(&[1], endless(1)));
    let running = submit().unwrap();
    seen.recv().unwrap();
    let waiting = [submit().unwrap(), submit().unwrap()];
    assert_eq!(submit().unwrap_err(), SubmitError::QueueFull { waiting: 2 });
    drop(open);
    all(running);
    for stream in waiting {
        all(stream);
    }
    // Everybody has left the queue.
    all(submit().unwrap());
}

#[test]
fn a_device_s_fault_is_told_and_a_broken_one_is_remembered() {
    let table = [
        (Fault::Timeout, RequestError::DeviceTimeout, false),
        (Fault::Busy, RequestError::DeviceBusy, false),
        (
            Fault::Other,
            RequestError::Step("device: why".to_owned()),
            false,
        ),
        (Fault::Broken, RequestError::DeviceBroken, true),
    ];
    for (fault, error, broken) in table {
        let hook: Hook = Arc::new(move |_| Err(Error::Device(fault, "why".to_owned())));
        let engine = start(toy::decoder_with(hook), config());
        let events = all(engine.submit(generate(&[1; 20], endless(5))).unwrap());
        assert_eq!(events, [Event::Failed(error)]);
        assert_eq!(engine.health().broken_device, broken, "{fault:?}");
    }
}

/// An encoder whose device gives no row for the request 1 of each batch.
struct Holed(Box<dyn Encoder>, Fault);

impl Encoder for Holed {
    fn forward(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) -> Result<(), Error> {
        self.0.forward(cx, batch, work)?;
        if batch.requests() > 1 {
            work.failed
                .push((1, Error::Device(self.1, "why".to_owned())));
        }
        Ok(())
    }
}

#[test]
fn what_a_device_gives_no_row_for_fails_alone() {
    for (fault, error, broken) in [
        (Fault::Busy, RequestError::DeviceBusy, false),
        (Fault::Broken, RequestError::DeviceBroken, true),
    ] {
        let (hook, seen, open) = gate();
        let head = toy::encoder().head.unwrap();
        let mut loaded = toy::encoder_with(head, hook);
        let Model::Encoder(inner) = loaded.model else {
            panic!("a toy encoder is one");
        };
        loaded.model = Model::Encoder(Box::new(Holed(inner, fault)));
        let engine = start(loaded, config());
        let submit = |id| {
            let task = Task::Pool(PoolingParams::default());
            let request = NewRequest {
                task,
                ..generate(&[id; 4], endless(1))
            };
            engine.submit(request).unwrap()
        };
        // While the first one is computed, three gather for the next step.
        let first = submit(1);
        assert_eq!(seen.recv().unwrap(), 1);
        let three = [submit(2), submit(3), submit(4)];
        open.send(Ok(())).unwrap();
        assert_eq!(seen.recv().unwrap(), 3);
        drop(open);
        assert!(matches!(all(first)[..], [Event::Pooled { .. }]));
        let [before, failed, behind] = three.map(all);
        assert_eq!(failed, [Event::Failed(error)]);
        for answered in [before, behind] {
            assert!(
                matches!(answered[..], [Event::Pooled { .. }]),
                "{answered:?}"
            );
        }
        assert_eq!(engine.health().broken_device, broken, "{fault:?}");
        let records = engine.steps(usize::MAX);
        assert!(!records[0].failed && records[1].failed);
        assert_eq!(engine.stats().finished_failed, 1);
    }
}

#[test]
fn a_failed_step_fails_its_requests_and_the_engine_goes_on() {
    let (hook, seen, open) = gate();
    let engine = start(toy::decoder_with(hook), config());
    let fails = engine.submit(generate(&[1; 20], endless(5))).unwrap();
    seen.recv().unwrap();
    let waits = engine.submit(generate(&[1; 20], endless(5))).unwrap();
    let error = Error::Device(Fault::Other, "out of order".to_owned());
    open.send(Err(error)).unwrap();
    drop(open);
    let events = all(fails);
    assert!(
        matches!(&events[..], [Event::Failed(RequestError::Step(why))] if why.contains("out of order")),
        "{events:?}"
    );
    assert_eq!(ids(&all(waits)).len(), 5);
    let stats = engine.stats();
    assert_eq!((stats.blocks_used, stats.finished_failed), (0, 1));
    assert!(engine.steps(usize::MAX)[0].failed);
}

/// The dumped lines of the one file in `dir`.
fn dumped(dir: &std::path::Path) -> Option<(String, Vec<serde_json::Value>)> {
    let entry = std::fs::read_dir(dir).ok()?.next()?.ok()?;
    let text = std::fs::read_to_string(entry.path()).ok()?;
    let lines = text.lines().map(|line| serde_json::from_str(line).ok());
    let name = entry.file_name().to_string_lossy().into_owned();
    Some((name, lines.collect::<Option<_>>()?))
}

#[test]
fn a_panic_kills_the_engine_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let calls = AtomicUsize::new(0);
    let hook = move |_: &Batch| {
        assert!(
            calls.fetch_add(1, Ordering::Relaxed) < 2,
            "the third step panics"
        );
        Ok(())
    };
    let config = EngineConfig {
        dump_dir: Some(dir.path().to_owned()),
        ..config()
    };
    let engine = start(toy::decoder_with(Arc::new(hook)), config);
    let events = all(engine.submit(generate(&[1], endless(9))).unwrap());
    assert_eq!(ids(&events).len(), 2);
    assert_eq!(
        events.last(),
        Some(&Event::Failed(RequestError::EngineDead))
    );
    assert_eq!(
        engine.submit(generate(&[1], endless(9))).unwrap_err(),
        SubmitError::EngineDead
    );
    let health = engine.health();
    assert!(!health.alive && !health.pending, "{health:?}");
    let (name, lines) = dumped(dir.path()).unwrap();
    assert_eq!(name, "koma-toy-panic-step-3.jsonl");
    let steps: Vec<_> = lines.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3]);
    assert_eq!(lines[2]["unfinished"], true);
    assert_eq!(lines[1]["unfinished"], false);
}

#[test]
fn a_hung_step_is_dumped_and_may_still_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let found = Arc::new(Mutex::new(None));
    let report = Arc::clone(&found);
    let hook = move |_: &Batch| {
        // Hangs until somebody has noticed.
        let mut found = report.lock().unwrap();
        while found.is_none() {
            *found = dumped(&path);
            std::thread::yield_now();
        }
        Ok(())
    };
    let config = EngineConfig {
        dump_dir: Some(dir.path().to_owned()),
        hung_after: Duration::from_millis(1),
        ..config()
    };
    let engine = start(toy::decoder_with(Arc::new(hook)), config);
    let events = all(engine.submit(generate(&[1], endless(1))).unwrap());
    assert_eq!(ids(&events).len(), 1);
    let found = found.lock().unwrap().take().unwrap();
    assert_eq!(found.0, "koma-toy-hung-step-1.jsonl");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_shutdown_finishes_what_is_there() {
    let (hook, seen, open) = gate();
    let engine = start(toy::decoder_with(hook), config());
    let stream = engine.submit(generate(&[1], endless(5))).unwrap();
    seen.recv().unwrap();
    engine.drain();
    assert_eq!(
        engine.submit(generate(&[1], endless(5))).unwrap_err(),
        SubmitError::ShuttingDown
    );
    drop(open);
    block_on(engine.shutdown(Instant::now() + Duration::from_mins(10)));
    assert_eq!(ids(&all(stream)).len(), 5);
    assert!(!engine.health().alive);
    // Again: nothing to do, and no waiting.
    block_on(engine.shutdown(Instant::now()));
}

#[test]
fn a_shutdown_fails_what_is_left_at_its_deadline() {
    let (hook, seen, open) = gate();
    let engine = start(toy::decoder_with(hook), config());
    let stream = engine.submit(generate(&[1], endless(500))).unwrap();
    seen.recv().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| block_on(engine.shutdown(Instant::now())));
        // Steps go on until the thread has heard of it.
        drop(open);
    });
    let events = all(stream);
    let failed = Event::Failed(RequestError::ShuttingDown);
    assert!(events.last() == Some(&failed) || ids(&events).len() == 500);
    assert!(!engine.health().pending);
}

#[test]
fn dropping_the_last_handle_ends_the_thread() {
    struct Told(mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (told, gone) = mpsc::channel();
    let told = Told(told);
    let hook = move |_: &Batch| {
        let _alive = &told;
        Ok(())
    };
    let engine = start(toy::decoder_with(Arc::new(hook)), config());
    let clone = engine.clone();
    let stream = clone.submit(generate(&[1], endless(500))).unwrap();
    drop(engine);
    drop(clone);
    let events = all(stream);
    let failed = Event::Failed(RequestError::ShuttingDown);
    assert!(events.last() == Some(&failed) || ids(&events).len() == 500);
    // The model is gone with its thread.
    assert_eq!(gone.recv(), Ok(()));
}
