//! [`Turns`]: which caller has the crew. Latency before throughput, within a bound; callers of one class in turns of at
//! most the same bound.
//!
//! Invariant: whenever nobody has the crew and somebody waits, a waiting caller that may take it has been woken.

use super::Class;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Between two regions of a caller that goes on, at most.
const GAP: Duration = Duration::from_micros(500);

#[derive(Debug)]
pub(super) struct Turns {
    max_slice: Duration,
    born: Instant,
    state: Mutex<State>,
    /// Where callers sleep, one for each class.
    free: [Condvar; 2],
    /// `State::waiting`, to be read without the lock between two chunks.
    waiting: [AtomicUsize; 2],
    /// The class of the region in progress. One of throughput stops for latency callers, one of latency for all.
    class: AtomicUsize,
    /// When that region must stop for such a caller that waits, in ns since `born`.
    until: AtomicU64,
    yields: AtomicU64,
    latency_first: AtomicU64,
}

#[derive(Debug)]
struct State {
    busy: bool,
    /// When the crew was taken.
    since: Instant,
    /// Callers that wait, per class.
    waiting: [usize; 2],
    /// Who had the crew last, and for how long in a row.
    last: Option<ThreadId>,
    used: Duration,
    /// When it was given back, and when by somebody else than the last.
    released: Instant,
    by_others: Option<Instant>,
    /// How long latency callers had the crew while a throughput caller waited.
    latency_used: Duration,
    /// What throughput callers may use now, latency callers waiting.
    credit: Option<Duration>,
}

/// The right to use the crew, from [`Turns::acquire`] on. The holder always releases it: regions catch panics.
#[must_use]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    class: Class,
}

const LATENCY: usize = Class::Latency as usize;
const THROUGHPUT: usize = Class::Throughput as usize;

impl State {
    /// Whether `me` may take the crew; `waits`: it is among the waiting.
    fn may_take(&self, class: Class, me: ThreadId, waits: bool, max_slice: Duration) -> bool {
        let others = |c: usize| self.waiting[c] - usize::from(waits && c == class as usize);
        let had_its_turn = self.last == Some(me) && self.used >= max_slice;
        if self.busy || (had_its_turn && others(class as usize) > 0) {
            return false;
        }
        match class {
            // A throughput caller that is between two of its regions still has its turn.
            Class::Latency => {
                self.credit.is_none() || (others(THROUGHPUT) == 0 && self.released.elapsed() >= GAP)
            }
            Class::Throughput => self.credit.is_some() || others(LATENCY) == 0,
        }
    }
}

impl Turns {
    pub(super) fn new(max_slice: Duration) -> Self {
        let now = Instant::now();
        Self {
            max_slice,
            born: now,
            state: Mutex::new(State {
                busy: false,
                since: now,
                waiting: [0; 2],
                last: None,
                used: Duration::ZERO,
                released: now,
                by_others: None,
                latency_used: Duration::ZERO,
                credit: None,
            }),
            free: [Condvar::new(), Condvar::new()],
            waiting: [const { AtomicUsize::new(0) }; 2],
            class: AtomicUsize::new(THROUGHPUT),
            until: AtomicU64::new(0),
            yields: AtomicU64::new(0),
            latency_first: AtomicU64::new(0),
        }
    }

    pub(super) fn yields(&self) -> u64 {
        self.yields.load(Ordering::Relaxed)
    }

    pub(super) fn latency_first(&self) -> u64 {
        self.latency_first.load(Ordering::Relaxed)
    }

    /// Whether others than this thread have the crew, wait for it or had it within `time`.
    pub(super) fn are_shared(&self, time: Duration) -> bool {
        let me = std::thread::current().id();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let others = match state.last {
            Some(last) if last != me => Some(state.released),
            _ => state.by_others,
        };
        state.busy || state.waiting != [0; 2] || others.is_some_and(|at| at.elapsed() < time)
    }

    /// Gives throughput callers a turn, and says what was left of the one before.
    #[cfg(test)]
    pub(super) fn give_credit(&self, credit: Duration) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.credit.replace(credit)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self, class: Class) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting[class as usize]
    }

    /// Waits for the crew.
    pub(super) fn acquire(&self, class: Class) -> Turn<'_> {
        let me = std::thread::current().id();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.may_take(class, me, false, self.max_slice) {
            state.waiting[class as usize] += 1;
            self.publish(&state);
            while !state.may_take(class, me, true, self.max_slice) {
                let free = &self.free[class as usize];
                state = if class == Class::Latency && state.credit.is_some() {
                    // Nobody wakes it if the other has gone.
                    let woken = free.wait_timeout(state, GAP);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                } else {
                    free.wait(state).unwrap_or_else(PoisonError::into_inner)
                };
            }
            state.waiting[class as usize] -= 1;
            self.publish(&state);
        }
        if class == Class::Latency {
            // The throughput caller whose turn it was has gone; or each region from here on would wait for it.
            state.credit = None;
        }
        state.busy = true;
        state.since = Instant::now();
        if state.last != Some(me) {
            state.by_others = state.last.map(|_| state.released);
            state.last = Some(me);
            state.used = Duration::ZERO;
        }
        let until = match (class, state.credit) {
            (Class::Latency, _) => {
                let used = state.latency_used.max(state.used);
                let left = self.max_slice.saturating_sub(used);
                self.nanos(state.since + left)
            }
            (Class::Throughput, None) => 0,
            (Class::Throughput, Some(credit)) => self.nanos(state.since + credit),
        };
        self.class.store(class as usize, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
        if class == Class::Latency && state.waiting[THROUGHPUT] > 0 {
            self.latency_first.fetch_add(1, Ordering::Relaxed);
        }
        Turn { turns: self, class }
    }

    /// Whether the region in progress must stop here for somebody else. Read before every chunk.
    pub(super) fn wanted(&self) -> bool {
        let waits = |class: usize| self.waiting[class].load(Ordering::Relaxed) > 0;
        let both = self.class.load(Ordering::Relaxed) == LATENCY;
        (waits(LATENCY) || (both && waits(THROUGHPUT)))
            && match self.until.load(Ordering::Relaxed) {
                0 => true,
                until => self.nanos(Instant::now()) >= until,
            }
    }

    fn publish(&self, state: &State) {
        for (to, waiting) in self.waiting.iter().zip(state.waiting) {
            to.store(waiting, Ordering::Relaxed);
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        at.duration_since(self.born).as_nanos() as u64
    }
}

impl Turn<'_> {
    /// Gives the crew back; `stopped`: before the region's end.
    pub(super) fn release(self, stopped: bool) {
        let turns = self.turns;
        let mut state = turns.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.released = Instant::now();
        let elapsed = state.released - state.since;
        state.busy = false;
        state.used += elapsed;
        match self.class {
            Class::Latency if state.waiting[THROUGHPUT] > 0 => {
                state.latency_used += elapsed;
                if state.latency_used >= turns.max_slice {
                    state.latency_used = Duration::ZERO;
                    state.credit = Some(3 * turns.max_slice);
                }
            }
            Class::Latency => {}
            Class::Throughput => {
                state.credit = state
                    .credit
                    .and_then(|c| c.checked_sub(elapsed))
                    .filter(|c| !c.is_zero());
                if !stopped {
                    state.latency_used = Duration::ZERO;
                }
            }
        }
        if stopped {
            turns.yields.fetch_add(1, Ordering::Relaxed);
        }
        let throughput_first = state.credit.is_some() || state.waiting[LATENCY] == 0;
        let next = if throughput_first && state.waiting[THROUGHPUT] > 0 {
            THROUGHPUT
        } else {
            LATENCY
        };
        // All of the class, since the one that has had its turn would go back to sleep.
        if state.waiting[next] > 0 {
            turns.free[next].notify_all();
        }
    }
}
