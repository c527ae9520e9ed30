//! The engine: one loop per model, `schedule -> run -> update`, behind a cheap handle; and the text layer above it.
//!
//! Owns: requests, the scheduler, cache blocks, the runner's buffers, sampling, the step records, chat templates and
//! detokenizing. Must not know: HTTP, JSON wire types, Prometheus, environment variables.
//!
//! Invariants: the engine core speaks token ids only; all its state belongs to one thread and is reached by channel; a
//! request's output does not depend on the company it keeps.
#![forbid(unsafe_code)]

mod cache;
mod config;
mod error;
mod event;
mod handle;
mod params;
mod plan;
mod request;
mod scheduler;
mod stats;
mod stop;

pub use config::EngineConfig;
pub use error::{ParamError, RequestError, StartError, SubmitError};
pub use event::{Event, EventStream, FinishReason, StopReason, Timings, TokenLogprob, Usage};
pub use handle::{EngineHandle, Health, ModelInfo, NewRequest, Task, TaskKind};
pub use koma_models as models;
pub use params::{PoolingParams, SamplingOptions, SamplingParams};
pub use stats::{Stats, StepRecord};
