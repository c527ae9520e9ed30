//! The engine: one loop per model, `schedule -> run -> update`, behind a cheap handle; and the text layer above it.
//!
//! Owns: requests, the scheduler, cache blocks, the runner's buffers, sampling, the step records, chat templates and
//! detokenizing. Must not know: HTTP, JSON wire types, Prometheus, environment variables.
//!
//! Invariants: the engine core speaks token ids only; all its state belongs to one thread and is reached by channel; a
//! request's output does not depend on the company it keeps.
#![forbid(unsafe_code)]

mod admission;
mod budget;
mod cache;
mod config;
#[cfg(any(test, feature = "toy"))]
pub mod drill;
mod engine_core;
#[cfg(test)]
mod equivalence;
mod error;
mod event;
mod forecast;
mod handle;
mod logits;
mod monitor;
#[cfg(feature = "cuda")]
mod on_gpu;
mod params;
mod plan;
mod request;
mod runner;
mod sampler;
mod scheduler;
mod stats;
mod steps;
mod stop;
mod tally;
#[cfg(test)]
mod testing;
pub mod text;
#[cfg(any(test, feature = "toy"))]
pub mod toy;
mod watchdog;

pub use budget::{
    Budget, BudgetError, Machine, ModelBudget, ModelNeed, Placement, Survey, Topology,
    cache_tokens, plan as plan_budget,
};
pub use config::EngineConfig;
pub use error::{ParamError, RequestError, StartError, SubmitError};
pub use event::{Event, EventStream, FinishReason, StopReason, Timings, TokenLogprob, Usage};
pub use forecast::{Forecast, ForecastLoad, FormatRate, Phase, forecast};
pub use handle::{EngineHandle, Health, ModelInfo, NewRequest, Task, TaskKind};
pub use koma_models as models;
#[cfg(feature = "cuda")]
pub use on_gpu::{GpuMemory, gpu_memory};
pub use params::{PoolingParams, SamplingOptions, SamplingParams};
pub use stats::{Stats, StepRecord};
