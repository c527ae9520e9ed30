//! [`Report`]: what the observer hears of a generation.

use crate::{ApiError, Finished, Observer, ServedModel};
use koma_engine::{FinishReason, RequestError, TaskKind, Timings, Usage};
use std::sync::Arc;
use std::time::Instant;

/// What the observer hears of a generation.
pub(super) struct Report {
    pub(super) observer: Arc<dyn Observer>,
    pub(super) model: Arc<ServedModel>,
    pub(super) arrived: Instant,
    /// Continuations per prompt.
    pub(super) n: u32,
    pub(super) max_tokens: Option<usize>,
}

impl Report {
    pub(super) fn tokens(&self, last: &mut Option<Instant>, count: usize) {
        let now = Instant::now();
        let name = self.model.name();
        match last.replace(now) {
            None => self.observer.first_token(name, now - self.arrived),
            Some(before) => self.observer.next_tokens(name, count, now - before),
        }
    }

    pub(super) fn finished(&self, reason: FinishReason, usage: Usage, timings: Timings) {
        self.observer.finished(&Finished {
            model: self.model.name(),
            task: TaskKind::Generate,
            reason,
            usage,
            timings,
            elapsed: self.arrived.elapsed(),
            n: self.n,
            max_tokens: self.max_tokens,
        });
    }

    pub(super) fn failed(&self, error: RequestError) -> ApiError {
        let error = ApiError::from(error);
        let code = error.code.unwrap_or_default();
        self.observer.refused(self.model.name(), code);
        error
    }
}
