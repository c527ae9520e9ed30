//! Going down: the signals that ask for it, and the order in which it happens.
//!
//! Invariant: not ready first, then no new requests, then what was admitted ends or its time is over, then the process.

use futures_util::future::join_all;
use koma_server::AppState;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on; before, a signal ends the process.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Lets what was admitted finish, for at most `timeout`; then ends all engines. The listener stays open meanwhile, so
/// that `/ready` and `/ping` can answer 503.
pub(crate) async fn drain(state: &AppState, timeout: Duration) {
    state.drain();
    let deadline = Instant::now() + timeout;
    let models: Vec<_> = state.ready().collect();
    join_all(models.iter().map(|model| model.handle.shutdown(deadline))).await;
}
