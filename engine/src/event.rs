//! What a request hears from the engine.

use crate::RequestError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end id, a stop id or a stop string.
    Stop,
    /// Its maximum of tokens, or the model's window.
    Length,
    /// The client left.
    Aborted,
}

/// What exactly stopped a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// One of the model's end ids.
    Eos,
    /// One of the request's stop ids.
    Token(u32),
    /// One of the request's stop strings.
    Text(String),
}

/// Counts of tokens of one child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt.
    pub prompt: usize,
    /// Prompt tokens that came from the prefix cache.
    pub cached: usize,
    /// Output.
    pub completion: usize,
}

/// Where the time of one request went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission to its first step.
    pub queued: Duration,
    /// From its first step to its first token (or its end, if it gives none).
    pub prefill: Duration,
    /// From its first token to its last.
    pub decode: Duration,
}

/// Log-probabilities at one output position, of the distribution before temperature and truncation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenLogprob {
    /// Of the chosen token.
    pub logprob: f32,
    /// The most probable tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// An event of one request. `child` counts its `n` continuations from 0.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// One more token.
    Token {
        /// Which continuation.
        child: u32,
        /// The token. An end id or stop id is sent too, before [`Event::Finished`].
        id: u32,
        /// If asked for.
        logprob: Option<TokenLogprob>,
    },
    /// A continuation has ended.
    Finished {
        /// Which continuation.
        child: u32,
        /// Why.
        reason: FinishReason,
        /// What stopped it, for [`FinishReason::Stop`].
        stop: Option<StopReason>,
        /// Its counts.
        usage: Usage,
        /// Its times.
        timings: Timings,
    },
    /// The result of a pooling request: the only event, apart from a failure.
    Pooled {
        /// The activated row (raw if asked so); where the head is one for tokens, a row for each token of the prompt.
        values: Vec<f32>,
        /// Its counts.
        usage: Usage,
        /// Its times.
        timings: Timings,
    },
    /// The request ended without a result; nothing follows.
    Failed(RequestError),
}

/// The events of one request. Dropping it aborts the request before the next step.
#[derive(Debug)]
pub struct EventStream {
    events: UnboundedReceiver<Event>,
    cancelled: Arc<Cancelled>,
}

impl EventStream {
    /// A stream of what `events` gives, with nobody who hears its cancellations: a stand-in for an engine.
    #[cfg(test)]
    pub(crate) fn from_events(events: UnboundedReceiver<Event>) -> Self {
        Self::new(events, Arc::default())
    }

    pub(crate) fn new(events: UnboundedReceiver<Event>, cancelled: Arc<Cancelled>) -> Self {
        Self { events, cancelled }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event, waiting on an ordinary thread.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// Ends continuation `child` before the next step, with [`FinishReason::Stop`]: its text met a stop string. The others
    /// go on. A continuation that has ended, or that there is none of, is left alone.
    pub fn cancel(&self, child: u32) {
        self.cancelled.set(child);
    }
}

/// Which continuations of a request the client has cancelled: one bit each.
#[derive(Debug, Default)]
pub(crate) struct Cancelled([AtomicU64; 2]);

impl Cancelled {
    fn set(&self, child: u32) {
        if let Some(word) = self.0.get(child as usize / 64) {
            word.fetch_or(1 << (child % 64), Ordering::Release);
        }
    }

    /// The cancelled ones since the last call, as bits.
    pub(crate) fn take(&self) -> u128 {
        let word = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
            0 => 0,
            _ => u128::from(word.swap(0, Ordering::Acquire)),
        };
        word(&self.0[0]) | word(&self.0[1]) << 64
    }
}
