//! [`AppState`]: the models by name, limits, and the flags that health answers from.
//!
//! Owns: the ordered list of models and which of them a request means. Must not know: routes, JSON. Invariant: nothing
//! here waits for a model; a slot changes only from loading to ready or failed.

use crate::{ApiError, Observer};
use axum::http::StatusCode;
use koma_engine::text::{ChatTemplate, TemplateError};
use koma_engine::{EngineHandle, SubmitError, TaskKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What bounds a request before any model sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Bytes of a body; one more is answered with 413. `SageMaker` sends up to 25 MB.
    pub body_bytes: usize,
    /// Prompts or inputs of one request, and continuations of all its prompts together.
    pub inputs: usize,
    /// Documents of one rerank request.
    pub documents: usize,
    /// Messages of one chat.
    pub messages: usize,
    /// Work that is pending this long without a step ending means that the engine hangs.
    pub hung_after: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            body_bytes: 25 << 20,
            inputs: 1024,
            documents: 1000,
            messages: 4096,
            hung_after: Duration::from_mins(1),
        }
    }
}

/// A model that answers.
pub struct ServedModel {
    /// Its engine.
    pub handle: EngineHandle,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// Where it came from, as the user gave it (`root` in `/v1/models`).
    pub root: String,
    /// Unix seconds of its start.
    pub created: u64,
}

impl ServedModel {
    /// A model behind `handle`, loaded from `root`.
    ///
    /// # Errors
    /// If its chat template is not valid; the message says where.
    pub fn new(handle: EngineHandle, root: impl Into<String>) -> Result<Self, String> {
        let template = match ChatTemplate::of(&handle.info().chat) {
            Ok(template) => Some(template),
            Err(TemplateError::Missing) => None,
            Err(error) => return Err(error.to_string()),
        };
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_secs());
        Ok(Self {
            handle,
            template,
            root: root.into(),
            created,
        })
    }

    /// The name it is served under.
    pub fn name(&self) -> &str {
        &self.handle.info().identity.name
    }

    /// The first 12 digits of its weights' hash.
    pub fn short_hash(&self) -> &str {
        let hash = &self.handle.info().identity.weights_hash;
        hash.get(..12).unwrap_or(hash)
    }

    /// Whether it does `task`.
    pub fn serves(&self, task: TaskKind) -> bool {
        self.handle.info().tasks.contains(&task)
    }

    /// The answer to a request that the engine refused; a full queue says how long the running work suggests to wait.
    pub fn refusal(&self, error: SubmitError) -> ApiError {
        let full = matches!(error, SubmitError::QueueFull { .. });
        let mut error = ApiError::from(error);
        if full {
            error.retry_after = Some(self.retry_after());
        }
        error
    }

    /// Seconds until what waits now has likely started: waiting requests times the recent time per finished request,
    /// from 1 to 60; 1 where nothing finished lately.
    fn retry_after(&self) -> u64 {
        let steps = self.handle.steps(256);
        let finished: u32 = steps.iter().map(|s| s.finished).sum();
        let (Some(first), Some(last), 1..) = (steps.first(), steps.last(), finished) else {
            return 1;
        };
        let each = last.at.saturating_sub(first.at) / finished;
        let wait = each.as_secs_f64() * self.handle.stats().waiting as f64;
        wait.ceil().clamp(1.0, 60.0) as u64
    }

    fn task_names(&self) -> String {
        let names: Vec<_> = self.handle.info().tasks.iter().map(|t| t.name()).collect();
        names.join(", ")
    }
}

/// What became of a model.
#[derive(Clone)]
pub enum Slot {
    /// It is being loaded.
    Loading,
    /// It answers.
    Ready(Arc<ServedModel>),
    /// It could not be loaded, for this reason (for the log; clients only hear that it failed).
    Failed(String),
}

/// What all handlers share. Clones are the same state.
#[derive(Clone)]
pub struct AppState {
    shared: Arc<Shared>,
}

struct Shared {
    models: Vec<(String, OnceLock<Slot>)>,
    limits: ServerLimits,
    draining: AtomicBool,
    observer: Arc<dyn Observer>,
}

impl AppState {
    /// A server of the models `names`, all of them loading. The first is the default. Names are distinct.
    pub fn new(
        names: impl IntoIterator<Item = String>,
        limits: ServerLimits,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let models = names.into_iter().map(|n| (n, OnceLock::new())).collect();
        Self {
            shared: Arc::new(Shared {
                models,
                limits,
                draining: AtomicBool::new(false),
                observer,
            }),
        }
    }

    /// `name` answers from now on. Ignored (false) if there is no such name or it was settled before.
    pub fn set_ready(&self, name: &str, model: Arc<ServedModel>) -> bool {
        self.settle(name, Slot::Ready(model))
    }

    /// `name` could not be loaded. Ignored (false) if there is no such name or it was settled before.
    pub fn set_failed(&self, name: &str, reason: impl Into<String>) -> bool {
        self.settle(name, Slot::Failed(reason.into()))
    }

    fn settle(&self, name: &str, slot: Slot) -> bool {
        let place = self.shared.models.iter().find(|(n, _)| n == name);
        place.is_some_and(|(_, place)| place.set(slot).is_ok())
    }

    /// All models, in the order they were named.
    pub fn models(&self) -> impl Iterator<Item = (&str, Slot)> {
        let models = self.shared.models.iter();
        models.map(|(name, slot)| (name.as_str(), slot.get().cloned().unwrap_or(Slot::Loading)))
    }

    /// The models that answer, in the order they were named.
    pub fn ready(&self) -> impl Iterator<Item = Arc<ServedModel>> {
        self.models().filter_map(|(_, slot)| match slot {
            Slot::Ready(model) => Some(model),
            Slot::Loading | Slot::Failed(_) => None,
        })
    }

    /// Whether every model answers and the server is not going down.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.models().all(|(_, s)| matches!(s, Slot::Ready(_)))
    }

    /// Why the process is unhealthy, if it is: a dead engine, a broken device, or work without progress. Waits for nothing.
    pub fn sick(&self) -> Option<String> {
        self.ready().find_map(|model| {
            let health = model.handle.health();
            if !health.alive {
                return Some(format!("the engine of `{}` has stopped", model.name()));
            }
            if health.broken_device {
                return Some(format!("the device of `{}` is broken", model.name()));
            }
            let hangs = health.pending && health.since_progress >= self.limits().hung_after;
            let seconds = health.since_progress.as_secs();
            hangs.then(|| format!("`{}` has not ended a step for {seconds} s", model.name()))
        })
    }

    /// From now on the server is going down: it is not ready, and engines refuse new requests.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.ready().for_each(|model| model.handle.drain());
    }

    /// Whether the server is going down.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    /// What bounds a request.
    pub fn limits(&self) -> &ServerLimits {
        &self.shared.limits
    }

    /// Who hears what happens.
    pub fn observer(&self) -> &Arc<dyn Observer> {
        &self.shared.observer
    }

    /// The model that `model` names, if it serves `task`; without a name (none or empty) the first that does.
    ///
    /// # Errors
    /// 404 for an unknown name, 400 for a model of another task, 503 while it is being loaded or going down.
    pub fn lookup(
        &self,
        model: Option<&str>,
        task: TaskKind,
    ) -> Result<Arc<ServedModel>, ApiError> {
        self.lookup_any(model, &[task]).map(|(model, _)| model)
    }

    /// As [`AppState::lookup`], for the first of `tasks` that the model serves.
    ///
    /// # Errors
    /// As [`AppState::lookup`].
    pub fn lookup_any(
        &self,
        model: Option<&str>,
        tasks: &[TaskKind],
    ) -> Result<(Arc<ServedModel>, TaskKind), ApiError> {
        if self.is_draining() {
            return Err(SubmitError::ShuttingDown.into());
        }
        match model.filter(|name| !name.is_empty()) {
            Some(name) => self.named(name, tasks),
            None => self.first_that_serves(tasks),
        }
    }

    fn named(
        &self,
        name: &str,
        tasks: &[TaskKind],
    ) -> Result<(Arc<ServedModel>, TaskKind), ApiError> {
        let Some((_, slot)) = self.models().find(|(n, _)| *n == name) else {
            let known: Vec<_> = self.models().map(|(n, _)| format!("`{n}`")).collect();
            let message = format!(
                "the model `{}` does not exist; this server has {}",
                clip(name),
                known.join(", ")
            );
            return Err(
                ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).in_field("model"),
            );
        };
        let model = answering(name, slot)?;
        if let Some(task) = tasks.iter().find(|task| model.serves(**task)) {
            return Ok((model, *task));
        }
        let message = format!(
            "model: the model `{name}` does not serve {}; it serves {}",
            task_list(tasks),
            model.task_names()
        );
        Err(ApiError::new(StatusCode::BAD_REQUEST, "wrong_task", message).in_field("model"))
    }

    /// A model that is still loading might serve the task, and then it would be the answer: so it is waited for (503),
    /// not passed over. One that failed is passed over.
    fn first_that_serves(
        &self,
        tasks: &[TaskKind],
    ) -> Result<(Arc<ServedModel>, TaskKind), ApiError> {
        for (name, slot) in self.models() {
            if matches!(slot, Slot::Failed(_)) {
                continue;
            }
            let model = answering(name, slot)?;
            if let Some(task) = tasks.iter().find(|task| model.serves(**task)) {
                return Ok((model, *task));
            }
        }
        let message = format!("model: no model of this server serves {}", task_list(tasks));
        Err(ApiError::new(StatusCode::BAD_REQUEST, "wrong_task", message).in_field("model"))
    }
}

fn answering(name: &str, slot: Slot) -> Result<Arc<ServedModel>, ApiError> {
    match slot {
        Slot::Ready(model) => Ok(model),
        Slot::Loading => Err(ApiError::unavailable(
            "model_loading",
            format!("the model `{name}` is being loaded"),
            5,
        )),
        Slot::Failed(_) => Err(ApiError::unavailable(
            "model_failed",
            format!("the model `{name}` could not be loaded"),
            60,
        )),
    }
}

/// The beginning of a text from outside, short enough for a message.
fn clip(text: &str) -> String {
    text.chars().take(100).collect()
}

fn task_list(tasks: &[TaskKind]) -> String {
    let names: Vec<_> = tasks.iter().map(|t| t.name()).collect();
    names.join(" or ")
}
