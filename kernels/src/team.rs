//! The one thread team of the process, handed out per parallel region.
//!
//! Owns: the worker threads (`team/crew.rs`) and the order in which engine threads get them (`team/turns.rs`). Must not
//! know what a region computes.
//!
//! Invariant: each chunk of a region runs exactly once, and [`Team::run`] returns only after every chunk it claimed has
//! ended, also when one panics. So a body may borrow from its caller's stack.

mod crew;
#[cfg(test)]
mod tests;
mod turns;

use crew::Crew;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use turns::Turns;

/// Who goes first when several models want the team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Short work that somebody waits for: classify, embed, rerank.
    Latency,
    /// Long work: generation.
    Throughput,
}

/// What a team has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TeamStats {
    /// Regions that ended, also by a panic.
    pub regions: u64,
    /// Times a region stopped between two chunks because somebody else waited.
    pub yields: u64,
    /// Times a latency caller got the team while a throughput caller waited for it.
    pub latency_first: u64,
}

/// The thread team. One region runs at a time. A waiting [`Class::Latency`] caller goes first, and a running
/// [`Class::Throughput`] region stops for it at a chunk boundary and goes on afterwards; but once latency callers have
/// had the team for `max_slice` while a throughput caller waited, they stop in the same way and that one gets it for three times as long
/// (steps of a chat come one after the other, and long work of latency callers must not double them); and they take turns of
/// `max_slice` among themselves.
#[derive(Debug)]
pub struct Team {
    crew: Arc<Crew>,
    turns: Arc<Turns>,
    workers: Vec<JoinHandle<()>>,
    regions: AtomicU64,
}

thread_local! {
    /// Whether this thread is inside a region: a nested one would wait for itself.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Marks the caller's thread for the time of a region, panics included.
struct Inside;

impl Inside {
    #[track_caller]
    fn enter() -> Self {
        assert!(
            !INSIDE.replace(true),
            "a parallel region was started inside another one"
        );
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

impl Team {
    /// How long one class may keep the other waiting, unless said otherwise.
    pub const MAX_SLICE: Duration = Duration::from_millis(5);

    /// A team of `threads` (at least 1), the calling thread of a region being one of them. Where the system refuses a
    /// thread, the team is smaller: [`Team::threads`] tells.
    pub fn new(threads: usize) -> Self {
        Self::with_max_slice(threads, Self::MAX_SLICE)
    }

    /// As [`Team::new`], with another bound on how long one class (or one caller of a class) may keep the next waiting.
    pub fn with_max_slice(threads: usize, max_slice: Duration) -> Self {
        let crew = Arc::new(Crew::new(threads));
        let turns = Arc::new(Turns::new(max_slice));
        let spawn = |worker: usize| {
            let (crew, turns) = (Arc::clone(&crew), Arc::clone(&turns));
            std::thread::Builder::new()
                .name(format!("team-{worker}"))
                .spawn(move || {
                    INSIDE.set(true);
                    crew.work(worker, &turns);
                })
                .ok()
        };
        let workers = (1..threads.max(1)).map_while(spawn).collect();
        Self {
            crew,
            turns,
            workers,
            regions: AtomicU64::new(0),
        }
    }

    /// Threads that work on a region, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// How long after somebody's last region they are counted on to come back ([`Team::is_shared`]).
    const RECENT: Duration = Duration::from_millis(50);

    /// Whether others than this thread have the team, wait for it or had it just now.
    pub fn is_shared(&self) -> bool {
        self.turns.are_shared(Self::RECENT)
    }

    /// What the team has done so far.
    pub fn stats(&self) -> TeamStats {
        TeamStats {
            regions: self.regions.load(Ordering::Relaxed),
            yields: self.turns.yields(),
            latency_first: self.turns.latency_first(),
        }
    }

    /// Runs `body(chunk)` for each chunk of `0..chunks`; returns when all are done. Called from any thread, never from
    /// inside a region. Threads beyond the cores sleep, so a chunk must not wait for another one.
    ///
    /// # Panics
    /// With the first panic of a body, after all chunks that had begun have ended (the others do not run); if called
    /// inside a region; for more than `i32::MAX` chunks.
    #[track_caller]
    pub fn run(&self, class: Class, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        self.run_indexed(class, chunks, &|_, chunk| body(chunk));
    }

    /// As [`Team::run`], with the number of the thread, `body(thread, chunk)`: below [`Team::threads`], and at any time
    /// one chunk at most has it, so it can choose scratch memory.
    #[track_caller]
    pub(crate) fn run_indexed(
        &self,
        class: Class,
        chunks: usize,
        body: &(dyn Fn(usize, usize) + Sync),
    ) {
        assert!(i32::try_from(chunks).is_ok(), "{chunks} chunks in a region");
        let _inside = Inside::enter();
        let mut next = 0;
        while next < chunks {
            let turn = self.turns.acquire(class);
            let ended = self.crew.run(next..chunks, body, &self.turns);
            turn.release(matches!(ended, Ok(upto) if upto < chunks));
            match ended {
                Ok(upto) => next = upto,
                Err(panic) => {
                    self.regions.fetch_add(1, Ordering::Relaxed);
                    std::panic::resume_unwind(panic);
                }
            }
        }
        self.regions.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.crew.stop();
        for worker in self.workers.drain(..) {
            // A worker catches its chunks' panics, so joining cannot fail; and a failure would change nothing here.
            let _ = worker.join();
        }
    }
}
