//! [`Crew`]: the worker threads and the chunks they claim. One region at a time; whose, is `turns`' business.
//!
//! Invariant: a thread reads the body only while it holds a claimed chunk that it has not reported done, and
//! [`Crew::run`] neither returns nor names another body before every claimed chunk is reported.

use super::turns::Turns;
use std::any::Any;
use std::cell::Cell;
use std::hint::spin_loop;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Waking a sleeping thread costs about 10 us; one that never slept would take its core from everything else.
const SPIN: Duration = Duration::from_micros(40);

/// One cache line (two, as the prefetcher sees them) for what many threads write.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

type Body = dyn Fn(usize, usize) + Sync;
type Panic = Box<dyn Any + Send>;

/// The body of the region in progress, its lifetime erased. None before the first.
#[derive(Debug, Default)]
struct BodyCell(Cell<Option<*const Body>>);

// SAFETY: the pointee is `Sync`, so it may be called from any thread. The cell is written while nobody holds a claimed chunk
// and read by those who do, see `Crew::run` and `Crew::take_part`.
unsafe impl Sync for BodyCell {}
// SAFETY: as above.
unsafe impl Send for BodyCell {}

#[derive(Debug, Default)]
pub(super) struct Crew {
    /// Cores beside the caller's: as many workers are woken at most.
    cores: usize,
    /// Workers that have begun.
    workers: AtomicUsize,
    /// Chunks that nobody has claimed: `next << 32 | end`, none where `next >= end`.
    open: Line<AtomicU64>,
    /// Chunks of this region that were claimed and have ended.
    done: Line<AtomicU32>,
    body: BodyCell,
    panic: Mutex<Option<Panic>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    caller_sleeps: AtomicBool,
    end: Mutex<()>,
    ended: Condvar,
    stopped: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins until `ready`, for a while; says whether it is.
fn spin(ready: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if ready() {
                return true;
            }
            spin_loop();
        }
        if start.elapsed() >= SPIN {
            return false;
        }
    }
}

impl Crew {
    /// The crew of a team of `threads`. Where that is more than there are cores, the others sleep: waking them would cost each
    /// region more than they could do, and they would take turns with those that hold a part of it.
    pub(super) fn new(threads: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            cores: cores.min(threads).saturating_sub(1),
            ..Self::default()
        }
    }

    /// Runs `body(thread, chunk)` for the chunks of `chunks`, in order of their numbers, until all are done, one panics
    /// or `turns` asks for the team. Returns the end of the part that was done.
    pub(super) fn run(
        &self,
        chunks: Range<usize>,
        body: &(dyn Fn(usize, usize) + Sync),
        turns: &Turns,
    ) -> Result<usize, Panic> {
        // SAFETY: only the lifetime changes. `take_part` reads the pointer only for a claimed chunk, every claimed chunk is
        // waited for below, and after that nothing is open, so no use of it outlives this call.
        let erased =
            unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), *const Body>(body) };
        // Nothing is open and every claimed chunk was reported, so nobody reads it. Opening publishes it.
        self.body.0.set(Some(erased));
        self.done.0.store(0, Ordering::Relaxed);
        // The caller has the first chunk for certain, so every slice gets on.
        let first = chunks.start as u64 + 1;
        let open = first << 32 | chunks.end as u64;
        self.open.0.store(open, Ordering::SeqCst);
        let asleep = self.sleepers.load(Ordering::SeqCst);
        let awake = self.workers.load(Ordering::SeqCst).saturating_sub(asleep);
        // One that is about to sleep looks once more after it is counted.
        let missing = self.cores.min(chunks.len() - 1).saturating_sub(awake);
        if missing > 0 {
            drop(lock(&self.sleep));
            (0..missing).for_each(|_| self.wake.notify_one());
        }
        self.take_part(0, Some(chunks.start), turns);
        let upto = (self.open.0.load(Ordering::SeqCst) & 0xffff_ffff) as usize;
        self.wait_for((upto - chunks.start) as u32);
        match lock(&self.panic).take() {
            Some(panic) => Err(panic),
            None => Ok(upto),
        }
    }

    /// A worker's life.
    pub(super) fn work(&self, thread: usize, turns: &Turns) {
        let open = || {
            let open = self.open.0.load(Ordering::SeqCst);
            open >> 32 < open & 0xffff_ffff
        };
        self.workers.fetch_add(1, Ordering::SeqCst);
        while !self.stopped.load(Ordering::SeqCst) {
            if !spin(|| open() || self.stopped.load(Ordering::SeqCst)) {
                let mut asleep = lock(&self.sleep);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !open() && !self.stopped.load(Ordering::SeqCst) {
                    asleep = self
                        .wake
                        .wait(asleep)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            self.take_part(thread, None, turns);
        }
    }

    /// Ends the workers' lives.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(lock(&self.sleep));
        self.wake.notify_all();
    }

    /// Runs chunks until none is open, and reports them together: until then the region, and its body, last. `first`: one
    /// that this thread has already.
    fn take_part(&self, thread: usize, first: Option<usize>, turns: &Turns) {
        let mut chunks = 0;
        let mut next = first.or_else(|| self.claim_in_turn(turns));
        while let Some(chunk) = next {
            chunks += 1;
            if let Some(body) = self.body.0.get() {
                // SAFETY: the chunk is claimed and not reported, so `run` of its region has not returned and the body lives.
                let body = unsafe { &*body };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(thread, chunk))) {
                    self.close();
                    lock(&self.panic).get_or_insert(panic);
                }
            }
            next = self.claim_in_turn(turns);
        }
        if chunks > 0 {
            self.done.0.fetch_add(chunks, Ordering::SeqCst);
            if thread != 0 && self.caller_sleeps.load(Ordering::SeqCst) {
                drop(lock(&self.end));
                self.ended.notify_one();
            }
        }
    }

    /// A chunk, unless somebody else is to have the team.
    fn claim_in_turn(&self, turns: &Turns) -> Option<usize> {
        if turns.wanted() {
            self.close();
        }
        self.claim()
    }

    fn claim(&self) -> Option<usize> {
        // Looking before adding bounds how far `next` runs past `end`: by the number of threads.
        let open = self.open.0.load(Ordering::Relaxed);
        if open >> 32 >= open & 0xffff_ffff {
            return None;
        }
        let open = self.open.0.fetch_add(1 << 32, Ordering::SeqCst);
        (open >> 32 < open & 0xffff_ffff).then_some((open >> 32) as usize)
    }

    /// Leaves the chunks that nobody has claimed to a later region: `end` becomes `next`.
    fn close(&self) {
        let shut =
            |open: u64| (open >> 32 < open & 0xffff_ffff).then_some(open >> 32 << 32 | open >> 32);
        // An error says that nothing was open.
        let _ = self
            .open
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, shut);
    }

    fn wait_for(&self, claimed: u32) {
        let ready = || self.done.0.load(Ordering::SeqCst) == claimed;
        if spin(ready) {
            return;
        }
        let mut end = lock(&self.end);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !ready() {
            end = self.ended.wait(end).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }
}
