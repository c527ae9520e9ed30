//! [`EngineHandle`]: the cheap, cloneable client of an engine.

use crate::engine_core::{self, Command, CoreParts, Submission};
use crate::monitor::Monitor;
#[cfg(feature = "cuda")]
use crate::on_gpu;
use crate::{
    EngineConfig, EventStream, PoolingParams, SamplingParams, StartError, Stats, StepRecord,
    SubmitError, admission, budget,
};
use koma_models::kernels::{Cx, Isa, Team};
use koma_models::{ChatAssets, Device, Head, HeadKind, Identity, Limits, Loaded, Model, Tokenizer};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// What a model can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskKind {
    /// Continue a text.
    Generate,
    /// Turn a text into a vector.
    Embed,
    /// Give a text labels.
    Classify,
    /// Give each token of a text a label.
    Tag,
    /// Score a pair of texts.
    Score,
}

impl TaskKind {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generation",
            Self::Embed => "embeddings",
            Self::Classify => "classification",
            Self::Tag => "token classification",
            Self::Score => "reranking",
        }
    }
}

/// What is asked of the model, with parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Generate.
    Generate(SamplingParams),
    /// Pool (embed, classify, score).
    Pool(PoolingParams),
}

/// A request, ready to be queued.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRequest {
    /// Prompt ids, at least one.
    pub prompt: Vec<u32>,
    /// Segments of the prompt (encoders); empty means all 0.
    pub type_ids: Vec<u32>,
    /// What is asked.
    pub task: Task,
    /// Lower goes first; equal ones in order of arrival.
    pub priority: i32,
    /// Fail if not started by then.
    pub queue_deadline: Option<Instant>,
    /// Fail if not finished by then.
    pub deadline: Option<Instant>,
    /// Only requests with the same salt share cached prefixes (a digest of tenant and `cache_salt`; zeros: none).
    pub cache_salt: [u8; 32],
}

/// What the outside may know of a model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Who it is.
    pub identity: Identity,
    /// What it can be asked.
    pub tasks: Vec<TaskKind>,
    /// What bounds a request; `max_len` as configured.
    pub limits: Limits,
    /// Meaning of an encoder's rows.
    pub head: Option<Head>,
    /// Chat template and end ids.
    pub chat: ChatAssets,
    /// Settings it runs with.
    pub config: EngineConfig,
    /// Bytes of weights.
    pub weight_bytes: usize,
    /// Blocks in each cache group; 0 without a cache.
    pub blocks: usize,
    /// What computes it.
    pub device: Device,
}

/// Whether an engine is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The engine thread is alive.
    pub alive: bool,
    /// The model's device is broken, for as long as the process lives.
    pub broken_device: bool,
    /// Something runs or waits.
    pub pending: bool,
    /// Since the last step ended (or since work arrived at an idle engine).
    pub since_progress: Duration,
}

/// A client of one model's engine. Clones share the engine; when the last one is dropped, the engine ends and fails what
/// it has not finished.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

struct Shared {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    commands: Sender<Command>,
    monitor: Arc<Monitor>,
}

impl EngineHandle {
    /// Starts the engine thread of `loaded` on `team`.
    ///
    /// # Errors
    /// If the settings are out of range, the cache cannot hold one request of full length, or memory is not to be had.
    pub fn start(
        loaded: Loaded,
        config: EngineConfig,
        team: Arc<Team>,
        isa: Isa,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let groups = loaded.model.cache_groups();
        let name = &loaded.identity.name;
        let cx = Cx::new(team, config.class, isa);
        #[cfg(feature = "cuda")]
        let (cx, config) = match &loaded.device {
            Device::Cuda(gpu) => {
                let cx = cx.on(gpu)?.with_graphs(config.graphs);
                let config = on_gpu::measured(&loaded, config.on(gpu), (gpu, &cx))?;
                (cx, config)
            }
            _ => (cx, config),
        };
        if config.kv_dtype.is_for_devices() && !groups.is_empty() && !cx.is_on_device() {
            let dtype = config.kv_dtype.name();
            return Err(StartError::Config {
                field: "--kv-dtype",
                message: format!(
                    "{dtype} is for models on a GPU (--device cuda:N); model `{name}` is on the CPU, where int8 takes as little memory"
                ),
            });
        }
        let blocks = budget::blocks(&groups, &config, loaded.limits.max_len, name)?;
        let info = ModelInfo {
            tasks: tasks(&loaded),
            identity: loaded.identity.clone(),
            limits: loaded.limits,
            head: loaded.head.clone(),
            chat: loaded.chat.clone(),
            config,
            weight_bytes: loaded.weight_bytes,
            blocks,
            device: loaded.device.clone(),
        };
        let tokenizer = Arc::clone(&loaded.tokenizer);
        let core = CoreParts::new(loaded, &info.config, &groups, blocks, cx)?;
        let (commands, received) = channel();
        let monitor = engine_core::spawn(core, &info, received)?;
        Ok(Self {
            shared: Arc::new(Shared {
                info,
                tokenizer,
                commands,
                monitor,
            }),
        })
    }

    /// Facts about the model.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.shared.tokenizer
    }

    /// Queues a request. Returns at once.
    ///
    /// # Errors
    /// If the request can never be served, or not now; nothing of it is queued then.
    pub fn submit(&self, request: NewRequest) -> Result<EventStream, SubmitError> {
        let (mut streams, refused) = self.submit_all([request]);
        match (streams.pop(), refused) {
            (Some(stream), None) => Ok(stream),
            (_, refused) => Err(refused.unwrap_or(SubmitError::EngineDead)),
        }
    }

    /// Queues requests that belong together: the next step finds all of them. Returns at once, with the events of those that
    /// were queued, in order, and why the first one that was not queued was refused; none behind that one is looked at.
    pub fn submit_all(
        &self,
        requests: impl IntoIterator<Item = NewRequest>,
    ) -> (Vec<EventStream>, Option<SubmitError>) {
        let (mut submissions, mut streams, mut refused) = (Vec::new(), Vec::new(), None);
        for request in requests {
            match self.admit(request) {
                Ok((submission, stream)) => {
                    submissions.push(submission);
                    streams.push(stream);
                }
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        // Refused only by a thread that has ended; the submissions come back and are dropped.
        let queued = streams.is_empty()
            || self
                .shared
                .commands
                .send(Command::Submit(submissions))
                .is_ok();
        if !queued {
            let closed = self.shared.monitor.check_open().err();
            return (Vec::new(), closed.or(Some(SubmitError::EngineDead)));
        }
        (streams, refused)
    }

    /// A request that can be served, and its events.
    fn admit(&self, request: NewRequest) -> Result<(Submission, EventStream), SubmitError> {
        let Shared { info, monitor, .. } = &*self.shared;
        monitor.check_open()?;
        let max_total = admission::check(&request, info)?;
        let children = match &request.task {
            Task::Generate(params) => params.n(),
            Task::Pool(_) => 1,
        };
        let (client, stream) = monitor.enter(info.config.max_waiting, children)?;
        let submission = Submission {
            request,
            max_total,
            client,
            submitted: Instant::now(),
        };
        Ok((submission, stream))
    }

    /// Numbers of now. Never waits for the engine thread.
    pub fn stats(&self) -> Stats {
        self.shared.monitor.steps.stats()
    }

    /// Health of now. Never waits for the engine thread.
    pub fn health(&self) -> Health {
        self.shared.monitor.health()
    }

    /// The newest `last` step records, oldest first. Never waits for a step.
    pub fn steps(&self, last: usize) -> Vec<StepRecord> {
        self.shared.monitor.steps.last(last)
    }

    /// Refuses new requests from now on; those admitted go on.
    pub fn drain(&self) {
        self.shared.monitor.drain();
    }

    /// Drains, waits for what is admitted until `deadline`, fails the rest, ends the thread. Returns when the thread has
    /// ended: a step that is in progress at the deadline is waited for.
    pub async fn shutdown(&self, deadline: Instant) {
        self.drain();
        // A thread that has ended already hears nothing and needs nothing.
        let _ = self.shared.commands.send(Command::Shutdown(deadline));
        self.shared.monitor.ended().await;
    }
}

fn tasks(loaded: &Loaded) -> Vec<TaskKind> {
    let kind = match (&loaded.model, loaded.head.as_ref().map(|head| &head.kind)) {
        (Model::Decoder(_), _) => TaskKind::Generate,
        (Model::Encoder(_), Some(HeadKind::Score { .. })) => TaskKind::Score,
        (Model::Encoder(_), Some(HeadKind::Embed { .. }) | None) => TaskKind::Embed,
        (Model::Encoder(_), Some(HeadKind::Tokens)) => TaskKind::Tag,
        (
            Model::Encoder(_),
            Some(HeadKind::SingleLabel | HeadKind::MultiLabel | HeadKind::Regression),
        ) => TaskKind::Classify,
    };
    vec![kind]
}

#[cfg(test)]
mod tests;
