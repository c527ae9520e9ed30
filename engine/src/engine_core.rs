//! [`EngineCore`]: the loop of one model, `schedule -> run -> update`, on a thread of its own.
//!
//! Owns: scheduler, runner and the clients' ends; nobody else touches them. Must not know: text, HTTP.
//!
//! Invariants: it blocks only when idle; a failed step ends the requests of that step and the loop goes on; a panic ends
//! the thread, and everybody hears of it.

use crate::cache::CacheShape;
use crate::monitor::{Client, Life, Monitor};
use crate::plan::StepPlan;
use crate::request::{ClientId, Order, Request, Work};
use crate::runner::{Buffers, ModelRunner};
use crate::scheduler::{Output, Scheduler, SchedulerConfig};
use crate::tally::Tally;
use crate::watchdog::Watchdog;
use crate::{
    EngineConfig, Event, ModelInfo, NewRequest, RequestError, StartError, StepRecord, Task,
};
use koma_models::kernels::{CacheGroup, Cx, KvCache};
use koma_models::{Loaded, Model};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

/// What clients ask of the thread.
pub(crate) enum Command {
    /// Queue these, before the next step.
    Submit(Vec<Submission>),
    /// End when all is done, or then.
    Shutdown(Instant),
}

/// A request that was found servable, and its client.
pub(crate) struct Submission {
    /// The request.
    pub(crate) request: NewRequest,
    /// Most tokens it can come to.
    pub(crate) max_total: usize,
    /// Who listens.
    pub(crate) client: Client,
    /// When it came.
    pub(crate) submitted: Instant,
}

/// The two halves of a core, ready to run.
pub(crate) struct CoreParts {
    scheduler: Scheduler,
    runner: ModelRunner,
}

impl CoreParts {
    /// Scheduler and runner of `loaded`, with `blocks` blocks in each of its cache `groups`.
    ///
    /// # Errors
    /// If the cache's memory is not to be had.
    pub(crate) fn new(
        loaded: Loaded,
        config: &EngineConfig,
        groups: &[CacheGroup],
        blocks: usize,
        cx: Cx,
    ) -> Result<Self, StartError> {
        let scheduler = Scheduler::new(SchedulerConfig {
            max_running: config.max_running,
            max_batch_tokens: config.max_batch_tokens,
            max_beside: Scheduler::BESIDE,
            chunked: matches!(loaded.model, Model::Decoder(_)),
            eos_ids: loaded.chat.eos_ids.clone(),
            cache: CacheShape {
                groups: groups.to_vec(),
                blocks,
                block_size: config.block_size,
                prefix_cache: config.prefix_cache,
                watermark: config.watermark,
                max_step: config.max_batch_tokens,
            },
        });
        // The rows that fill a step up write to a block of their own.
        let all_blocks = blocks + usize::from(cx.is_on_device());
        let runner = ModelRunner {
            cache: KvCache::on(&cx, groups, all_blocks, config.block_size, config.kv_dtype)?,
            kinds: groups.iter().map(|group| group.kind).collect(),
            block_size: config.block_size,
            #[cfg(feature = "cuda")]
            spare_block: blocks as u32,
            model: loaded.model,
            head: loaded.head,
            eos_ids: loaded.chat.eos_ids,
            cx,
            buffers: Buffers::new(config.max_batch_tokens, groups.len(), blocks),
        };
        Ok(Self { scheduler, runner })
    }
}

/// Starts the threads of an engine: its loop, and the one that watches its steps.
///
/// # Errors
/// If there is no thread to be had.
pub(crate) fn spawn(
    parts: CoreParts,
    info: &ModelInfo,
    commands: Receiver<Command>,
) -> Result<Arc<Monitor>, StartError> {
    let name = info.identity.name.clone();
    let monitor = Arc::new(Monitor::new(parts.scheduler.stats()));
    let dump = Dump {
        dir: info.config.dump_dir.clone(),
        model: name.clone(),
        monitor: Arc::clone(&monitor),
    };
    let on_hung = dump.clone();
    let watchdog = Watchdog::start(&name, info.config.hung_after, move |step| {
        tracing::error!(model = on_hung.model, step, "a step of the engine hangs");
        on_hung.write("hung");
    })
    .map_err(StartError::Thread)?;
    let mut core = EngineCore {
        scheduler: parts.scheduler,
        runner: parts.runner,
        clients: Vec::new(),
        commands,
        monitor: Arc::clone(&monitor),
        watchdog: Arc::clone(&watchdog),
        plan: StepPlan::default(),
        outputs: Vec::new(),
        step: 0,
        shutdown: None,
    };
    let body = move || {
        let ended = catch_unwind(AssertUnwindSafe(|| core.run()));
        core.watchdog.stop();
        let life = if ended.is_ok() {
            Life::Ended
        } else {
            Life::Dead
        };
        if life == Life::Dead {
            tracing::error!(model = dump.model, step = core.step, "the engine panicked");
            dump.write("panic");
        }
        core.monitor.end(life);
        // Whoever still waits, in the core or in the channel, hears of the end now.
        drop(core);
        dump.monitor.announce_end();
    };
    let spawned = std::thread::Builder::new()
        .name(format!("engine-{name}"))
        .spawn(body);
    if let Err(error) = spawned {
        watchdog.stop();
        return Err(StartError::Thread(error));
    }
    Ok(monitor)
}

/// Where step records go when something is wrong.
#[derive(Clone)]
struct Dump {
    dir: Option<PathBuf>,
    model: String,
    monitor: Arc<Monitor>,
}

impl Dump {
    fn write(&self, why: &str) {
        let Some(dir) = &self.dir else { return };
        match self.monitor.steps.dump(dir, &self.model, why) {
            Ok(path) => tracing::error!(model = self.model, "step records: {}", path.display()),
            Err(error) => tracing::error!(model = self.model, %error, "no step records"),
        }
    }
}

/// The loop and its state.
struct EngineCore {
    scheduler: Scheduler,
    runner: ModelRunner,
    /// By [`ClientId`]; ids are reused.
    clients: Vec<Option<Client>>,
    commands: Receiver<Command>,
    monitor: Arc<Monitor>,
    watchdog: Arc<Watchdog>,
    plan: StepPlan,
    outputs: Vec<Output>,
    step: u64,
    shutdown: Option<Instant>,
}

impl EngineCore {
    /// Until everything is done after a shutdown, or all handles are gone.
    fn run(&mut self) {
        while self.receive() {
            let now = Instant::now();
            self.drop_cancelled(now);
            self.scheduler.expire(now, &mut self.outputs);
            if !self.outputs.is_empty() {
                self.monitor.steps.set_stats(self.scheduler.stats());
                self.deliver();
            }
            if self.shutdown.is_some_and(|deadline| deadline <= now) {
                return;
            }
            if !self.scheduler.is_idle() {
                self.step();
            }
        }
    }

    /// Takes all commands there are; waits for one when idle. False: there is nothing left to do.
    fn receive(&mut self) -> bool {
        if self.scheduler.is_idle() {
            self.check_leaks();
            if self.shutdown.is_some() {
                return false;
            }
            let Ok(command) = self.commands.recv() else {
                return false;
            };
            self.take(command);
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// When nobody is here, all blocks must be free: in debug builds, every run of the engine proves it.
    fn check_leaks(&self) {
        if cfg!(debug_assertions)
            && let Err(broken) = self.scheduler.check_integrity()
        {
            panic!("the cache's book-keeping is broken: {broken}");
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Shutdown(deadline) => {
                let earlier = self.shutdown.map_or(deadline, |old| old.min(deadline));
                self.shutdown = Some(earlier);
            }
            Command::Submit(submissions) => {
                for submission in submissions {
                    self.add(submission);
                }
                self.monitor.steps.set_stats(self.scheduler.stats());
            }
        }
    }

    fn add(&mut self, submission: Submission) {
        let unused = self.clients.iter().position(Option::is_none);
        let at = unused.unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        let (client, request) = into_request(submission, at as ClientId);
        self.clients[at] = Some(client);
        self.scheduler.add(request);
    }

    /// Ends what clients have cancelled, and all of those who left.
    fn drop_cancelled(&mut self, now: Instant) {
        for (id, client) in self.clients.iter().enumerate() {
            let Some((children, reason)) = client.as_ref().map(Client::cancelled) else {
                continue;
            };
            if children != 0 {
                self.scheduler.end_children(
                    id as ClientId,
                    (children, reason),
                    now,
                    &mut self.outputs,
                );
            }
        }
    }

    fn step(&mut self) {
        let began = Instant::now();
        self.scheduler.schedule(began, &mut self.plan);
        assert!(
            !self.plan.entries.is_empty(),
            "a plan without requests, though some wait or run"
        );
        self.start_clients();
        self.step += 1;
        let mut record = StepRecord {
            step: self.step,
            at: self.monitor.age(began),
            requests: self.plan.entries.len() as u32,
            tokens: self.plan.tokens as u32,
            rows: self.plan.rows() as u32,
            preempted: self.plan.preempted as u32,
            ..StepRecord::default()
        };
        self.monitor.steps.begin(record);
        self.watchdog.begin(self.step);
        let planned = Instant::now();
        let mut result = self.runner.forward(&self.plan, self.scheduler.requests());
        if result.is_ok() && self.runner.is_on_device() {
            // While the device computes: what the step before gave goes out, and the next step is planned.
            self.deliver();
            self.scheduler.plan_ahead(Instant::now(), &mut self.plan);
            result = self.runner.finish();
        }
        let ran = Instant::now();
        match result {
            Ok(()) => {
                for (_, error) in self.runner.failed() {
                    record.failed = true;
                    note_broken(&RequestError::of_kernels(error), &self.monitor);
                }
                let requests = self.scheduler.requests();
                let rows = self.runner.sample(&self.plan, requests);
                let now = Instant::now();
                self.scheduler
                    .update(&self.plan, rows, now, &mut self.outputs);
            }
            Err(error) => {
                tracing::error!(step = self.step, %error, "a step failed");
                record.failed = true;
                let error = RequestError::of_step(&error);
                note_broken(&error, &self.monitor);
                self.scheduler
                    .fail_step(&self.plan, &error, &mut self.outputs);
            }
        }
        self.watchdog.end();
        let stats = self.scheduler.stats();
        record.waiting = stats.waiting as u32;
        record.blocks_used = stats.blocks_used as u32;
        record.finished = self.outputs.iter().filter(|o| is_end(&o.event)).count() as u32;
        record.schedule = planned.saturating_duration_since(began);
        record.forward = ran.saturating_duration_since(planned);
        record.update = ran.elapsed();
        self.monitor.steps.end(record, stats);
        self.monitor.note_progress();
        if !self.scheduler.is_planned() {
            self.deliver();
        }
    }

    fn start_clients(&mut self) {
        for entry in self.plan.entries.iter().filter(|entry| entry.first) {
            let id = self.scheduler.requests()[entry.id].client;
            if let Some(client) = &mut self.clients[id as usize] {
                client.start();
            }
        }
    }

    /// Sends events to whom they belong; a client that has heard its last one is forgotten.
    fn deliver(&mut self) {
        for Output { client, event } in self.outputs.drain(..) {
            let slot = &mut self.clients[client as usize];
            if slot.as_mut().is_some_and(|client| client.send(event)) {
                *slot = None;
            }
        }
    }
}

/// Remembers a device that is broken.
fn note_broken(error: &RequestError, monitor: &Monitor) {
    if *error == RequestError::DeviceBroken {
        monitor.note_broken_device();
    }
}

fn is_end(event: &Event) -> bool {
    !matches!(event, Event::Token { .. })
}

fn into_request(submission: Submission, client: ClientId) -> (Client, Request) {
    let NewRequest {
        prompt,
        type_ids,
        task,
        priority,
        queue_deadline,
        deadline,
        cache_salt,
    } = submission.request;
    let (work, unforked, tally) = match task {
        Task::Generate(params) => {
            let (n, tally) = (params.n(), Tally::new(&params, &prompt));
            (Work::Generate(Arc::new(params)), n, tally)
        }
        Task::Pool(params) => (Work::Pool(params), 1, Tally::default()),
    };
    let request = Request {
        client,
        order: Order {
            priority,
            arrival: 0,
            child: 0,
        },
        prompt_len: prompt.len(),
        tokens: prompt,
        tally,
        type_ids,
        max_total: submission.max_total,
        num_computed: 0,
        work,
        unforked,
        cache: crate::cache::RequestCache::default(),
        salt: cache_salt,
        queue_deadline,
        deadline,
        cached: 0,
        submitted: submission.submitted,
        started: None,
        first_token: None,
    };
    (submission.client, request)
}
