//! [`Watchdog`]: notices a step that takes too long, from a thread that otherwise sleeps.
//!
//! Owns: when the step in progress began. Must not know: what a step is.
//!
//! Invariant: it costs the engine one short lock per step, and a wake-up at most once per `hung_after`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Watches one engine's steps.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The step in progress: its number and its start.
    step: Option<(u64, Instant)>,
    /// The watching thread waits for a step to begin.
    asleep: bool,
    stopped: bool,
}

impl Watchdog {
    /// Starts the watching thread; `on_hung` is called once for each step that takes longer than `hung_after`.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn start(
        name: &str,
        hung_after: Duration,
        on_hung: impl Fn(u64) + Send + 'static,
    ) -> std::io::Result<Arc<Self>> {
        let watchdog = Arc::new(Self::default());
        let watched = Arc::clone(&watchdog);
        std::thread::Builder::new()
            .name(format!("watch-{name}"))
            .spawn(move || watched.watch(hung_after, &on_hung))?;
        Ok(watchdog)
    }

    /// Step `step` begins.
    pub(crate) fn begin(&self, step: u64) {
        let mut state = self.lock();
        state.step = Some((step, Instant::now()));
        if state.asleep {
            self.changed.notify_one();
        }
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.lock().step = None;
    }

    /// Ends the watching thread.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
    }

    fn watch(&self, hung_after: Duration, on_hung: &dyn Fn(u64)) {
        let mut reported = 0;
        let mut state = self.lock();
        while !state.stopped {
            let running = state.step.filter(|&(step, _)| step != reported);
            let Some((step, since)) = running else {
                // Nothing to watch: whoever begins the next step wakes this thread.
                state.asleep = true;
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.asleep = false;
                continue;
            };
            let left = hung_after.saturating_sub(since.elapsed());
            if left.is_zero() {
                reported = step;
                drop(state);
                on_hung(step);
                state = self.lock();
            } else {
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
