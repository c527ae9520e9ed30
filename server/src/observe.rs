//! [`Observer`]: where the routes report what happened, and where `/metrics` gets its text. The metrics registry is one.
//!
//! Must not know: Prometheus, series names. Invariant: never called with text of a prompt or of an answer.

use crate::AppState;
use koma_engine::{FinishReason, TaskKind, Timings, Usage};
use std::time::Duration;

/// One engine request that ended: a continuation of a generation, or a pooled text.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What it was asked.
    pub task: TaskKind,
    /// How it ended; [`FinishReason::Stop`] for a pooled text.
    pub reason: FinishReason,
    /// Its tokens.
    pub usage: Usage,
    /// Where its time went inside the engine.
    pub timings: Timings,
    /// From its arrival at the server to its end.
    pub elapsed: Duration,
    /// How many continuations its request asked for.
    pub n: u32,
    /// The most output tokens its request asked for, if it said so.
    pub max_tokens: Option<usize>,
}

/// Hears what happened. Calls come from many threads and must not wait.
pub trait Observer: Send + Sync + 'static {
    /// A continuation gave its first token this long after its request arrived.
    fn first_token(&self, model: &str, after: Duration) {
        let _ = (model, after);
    }

    /// A continuation gave `tokens` more tokens this long after the ones before.
    fn next_tokens(&self, model: &str, tokens: usize, gap: Duration) {
        let _ = (model, tokens, gap);
    }

    /// An engine request ended.
    fn finished(&self, finished: &Finished<'_>) {
        let _ = finished;
    }

    /// A request was refused or failed, with this error code.
    fn refused(&self, model: &str, code: &'static str) {
        let _ = (model, code);
    }

    /// An HTTP exchange: its reply's head was ready after `elapsed`. `route` is the route's pattern, never the raw path.
    fn http(&self, route: &str, status: u16, elapsed: Duration) {
        let _ = (route, status, elapsed);
    }

    /// The body of `/metrics`, in Prometheus' text format.
    fn render(&self, state: &AppState) -> String {
        let _ = state;
        String::new()
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
