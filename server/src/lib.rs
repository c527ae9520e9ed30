//! The server: HTTP, JSON, SSE and the subcommands of `koma`, over engines that other threads drive.
//!
//! Owns: wire formats, statuses, which model a request means, the metrics' names, flags and environment. Must not know:
//! model architectures, cache blocks, scheduling.
//!
//! Invariants: raw input becomes a validated type once, in `wire`; handlers hold no model logic; nothing that answers
//! health waits for a model; no text of a prompt or an answer is logged.
#![forbid(unsafe_code)]

mod app;
mod call;
mod encode;
mod error;
mod exchange;
mod generation;
pub mod metrics;
mod observe;
mod pool;
mod routes;
mod sse;
mod state;
mod wire;

pub use app::app;
pub use error::ApiError;
pub use metrics::Metrics;
pub use observe::{Finished, Observer, Silent};
pub use state::{AppState, ServedModel, ServerLimits, Slot};
