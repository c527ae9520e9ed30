//! Going down: the signals that ask for it, and the order in which it happens.
//!
//! Invariant: not ready first, then no new requests, then what was admitted ends or its time is over, then the process.

use futures_util::future::join_all;
use koma_server::AppState;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT, and SIGHUP where it is not ignored (as under `nohup`).
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

/// Whether this process ignores SIGHUP, from the signal masks that Linux tells of it (`proc_pid_status(5)`).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
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
            hangup: if ignores_hangup() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// The next signal's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            Some(()) = async { self.hangup.as_mut()?.recv().await } => "SIGHUP",
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use koma_engine::models::kernels::{Isa, Team};
    use koma_engine::toy;
    use koma_engine::{
        EngineConfig, EngineHandle, Event, EventStream, NewRequest, RequestError, SamplingOptions,
        SamplingParams, SubmitError, Task, TaskKind,
    };
    use koma_server::{ServedModel, ServerLimits, Silent};
    use std::pin::pin;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};

    const OUTPUT: usize = 5;

    /// A server of a toy whose steps each wait for a permit.
    struct Fixture {
        state: AppState,
        engine: EngineHandle,
        step_began: Receiver<()>,
        permits: Sender<()>,
    }

    impl Fixture {
        fn new() -> Self {
            let (began, step_began) = channel();
            let (permits, wait) = channel();
            let ends = Mutex::new((began, wait));
            let hook: toy::Hook = Arc::new(move |_| {
                let (began, wait) = &*ends.lock().unwrap();
                // Errors mean that the test is over.
                let _ = began.send(());
                let _ = wait.recv();
                Ok(())
            });
            let team = Arc::new(Team::new(1));
            let config = EngineConfig {
                cache_bytes: 1 << 20,
                ..EngineConfig::default()
            };
            let loaded = toy::decoder_with(hook);
            let engine = EngineHandle::start(loaded, config, team, Isa::Portable).unwrap();
            let names = ["toy".to_owned()];
            let state = AppState::new(names, ServerLimits::default(), Arc::new(Silent));
            let served = ServedModel::new(engine.clone(), "toy").unwrap();
            assert!(state.set_ready("toy", Arc::new(served)));
            Self {
                state,
                engine,
                step_began,
                permits,
            }
        }

        fn submit(&self) -> Result<EventStream, SubmitError> {
            let options = SamplingOptions {
                max_tokens: Some(OUTPUT as i64),
                ignore_eos: true,
                ..SamplingOptions::default()
            };
            self.engine.submit(NewRequest {
                prompt: vec![65; 3],
                type_ids: Vec::new(),
                task: Task::Generate(SamplingParams::new(&options, toy::VOCAB).unwrap()),
                priority: 0,
                queue_deadline: None,
                deadline: None,
                cache_salt: [0; 32],
            })
        }

        /// A request whose first step has begun.
        fn running(&self) -> EventStream {
            let stream = self.submit().unwrap();
            self.step_began.recv().unwrap();
            stream
        }

        fn permit(&self, steps: usize) {
            for _ in 0..steps {
                // The engine may have ended already, and its model with it.
                let _ = self.permits.send(());
            }
        }
    }

    async fn events(mut stream: EventStream) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = stream.next().await {
            all.push(event);
        }
        all
    }

    #[tokio::test]
    async fn what_was_admitted_ends_and_nothing_else_begins() {
        let fixture = Fixture::new();
        let stream = fixture.running();
        assert!(fixture.state.is_ready());
        let mut drained = pin!(drain(&fixture.state, Duration::from_hours(1)));
        assert!(poll!(drained.as_mut()).is_pending());
        assert!(!fixture.state.is_ready());
        assert_eq!(fixture.submit().unwrap_err(), SubmitError::ShuttingDown);
        assert!(fixture.state.lookup(None, TaskKind::Generate).is_err());
        fixture.permit(OUTPUT);
        drained.await;
        let events = events(stream).await;
        assert_eq!(events.len(), OUTPUT + 1);
        assert!(matches!(events[OUTPUT], Event::Finished { .. }));
    }

    #[tokio::test]
    async fn what_has_not_ended_in_time_fails() {
        let fixture = Fixture::new();
        let stream = fixture.running();
        let mut drained = pin!(drain(&fixture.state, Duration::ZERO));
        assert!(poll!(drained.as_mut()).is_pending());
        fixture.permit(OUTPUT);
        drained.await;
        let events = events(stream).await;
        let failed = Event::Failed(RequestError::ShuttingDown);
        assert_eq!(events.last(), Some(&failed), "{events:?}");
        assert!(events.len() < OUTPUT + 1);
    }
}
