//! [`Monitor`]: what clients may know of an engine without waiting for it; and [`Client`], a submission's place in it.
//!
//! Owns: the engine's life (running, draining, ended, dead), counts of open and queued submissions, the time of the last
//! progress, step records. Must not know: requests, the scheduler.
//!
//! Invariants: nothing here is locked during a step. Each submission that enters leaves exactly once, and its client hears
//! an end: when a [`Client`] is dropped before its last event, it sends one.

use crate::event::Cancelled;
use crate::steps::Steps;
use crate::{Event, EventStream, FinishReason, Health, RequestError, Stats, SubmitError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// An engine's life. Only ever goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Life {
    /// Takes requests.
    Running,
    /// Finishes what it has.
    Draining,
    /// The thread has ended as asked.
    Ended,
    /// The thread has panicked.
    Dead,
}

/// Shared between an engine's thread and its clients.
#[derive(Debug)]
pub(crate) struct Monitor {
    life: AtomicU8,
    ended: watch::Sender<bool>,
    /// Submissions that have not ended.
    open: AtomicUsize,
    /// Submissions that have not started.
    queued: AtomicUsize,
    /// When the last step ended, or work arrived at an idle engine: nanoseconds after `born`.
    progress: AtomicU64,
    born: Instant,
    /// A step met a device that is broken.
    broken_device: AtomicBool,
    /// Records and statistics.
    pub(crate) steps: Steps,
}

impl Monitor {
    /// Of an idle engine.
    pub(crate) fn new(stats: Stats) -> Self {
        Self {
            life: AtomicU8::new(Life::Running as u8),
            ended: watch::Sender::new(false),
            open: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            born: Instant::now(),
            broken_device: AtomicBool::new(false),
            steps: Steps::new(stats),
        }
    }

    /// Time since the engine's start.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// Takes a submission of `children` continuations in, if not too many wait.
    ///
    /// # Errors
    /// [`SubmitError::QueueFull`].
    pub(crate) fn enter(
        self: &Arc<Self>,
        max_waiting: usize,
        children: u32,
    ) -> Result<(Client, EventStream), SubmitError> {
        let (seen, done) = (Ordering::Relaxed, Ordering::Relaxed);
        let enter = |waiting: usize| (waiting < max_waiting).then_some(waiting + 1);
        self.queued
            .fetch_update(seen, done, enter)
            .map_err(|waiting| SubmitError::QueueFull { waiting })?;
        // First the progress, then the work: whoever sees work at a fresh engine must not take its idle time for a hang.
        if self.open.load(Ordering::Acquire) == 0 {
            self.note_progress();
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        let (events, receiver) = mpsc::unbounded_channel();
        let cancelled = Arc::<Cancelled>::default();
        let client = Client {
            events,
            cancelled: Arc::clone(&cancelled),
            monitor: Arc::clone(self),
            children,
            queued: true,
            open: true,
        };
        Ok((client, EventStream::new(receiver, cancelled)))
    }

    /// # Errors
    /// If the engine takes no more requests.
    pub(crate) fn check_open(&self) -> Result<(), SubmitError> {
        match self.life() {
            Life::Running => Ok(()),
            Life::Draining | Life::Ended => Err(SubmitError::ShuttingDown),
            Life::Dead => Err(SubmitError::EngineDead),
        }
    }

    /// No new submissions from now on.
    pub(crate) fn drain(&self) {
        self.advance(Life::Draining);
    }

    /// The thread has reached its end: what clients still wait for will not come.
    pub(crate) fn end(&self, life: Life) {
        self.advance(life);
    }

    /// Wakes those who wait for the end, when all is cleaned up.
    pub(crate) fn announce_end(&self) {
        self.ended.send_replace(true);
    }

    /// Waits until the thread has ended.
    pub(crate) async fn ended(&self) {
        // An error means that the sender is gone, but it is part of this very monitor.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// A step has ended, or work has arrived at an idle engine.
    pub(crate) fn note_progress(&self) {
        let now = self.age(Instant::now()).as_nanos() as u64;
        self.progress.fetch_max(now, Ordering::Release);
    }

    /// A step met a device that is broken; nothing mends it in this process.
    pub(crate) fn note_broken_device(&self) {
        self.broken_device.store(true, Ordering::Release);
    }

    /// Health of now.
    pub(crate) fn health(&self) -> Health {
        let progress = Duration::from_nanos(self.progress.load(Ordering::Acquire));
        Health {
            alive: self.life() < Life::Ended,
            broken_device: self.broken_device.load(Ordering::Acquire),
            pending: self.open.load(Ordering::Acquire) > 0,
            since_progress: self.age(Instant::now()).saturating_sub(progress),
        }
    }

    fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Running,
            1 => Life::Draining,
            2 => Life::Ended,
            _ => Life::Dead,
        }
    }

    fn advance(&self, life: Life) {
        self.life.fetch_max(life as u8, Ordering::AcqRel);
    }
}

/// The engine's end of one submission.
#[derive(Debug)]
pub(crate) struct Client {
    events: mpsc::UnboundedSender<Event>,
    cancelled: Arc<Cancelled>,
    monitor: Arc<Monitor>,
    /// Continuations that have not ended.
    children: u32,
    queued: bool,
    open: bool,
}

impl Client {
    /// Its first step: it waits no longer.
    pub(crate) fn start(&mut self) {
        if std::mem::take(&mut self.queued) {
            self.monitor.queued.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Continuations that end now, as bits, and why: those whose text met a stop string; all if the client has left.
    pub(crate) fn cancelled(&self) -> (u128, FinishReason) {
        if self.events.is_closed() {
            (u128::MAX, FinishReason::Aborted)
        } else {
            (self.cancelled.take(), FinishReason::Stop)
        }
    }

    /// Sends an event. True: it was the last one. A client that has left hears nothing and loses nothing.
    pub(crate) fn send(&mut self, event: Event) -> bool {
        match event {
            Event::Token { .. } => {}
            Event::Finished { .. } => self.children = self.children.saturating_sub(1),
            Event::Pooled { .. } | Event::Failed(_) => self.children = 0,
        }
        let last = self.children == 0;
        if last {
            // First leave, then say so: who has heard the end finds the counts right.
            self.leave();
        }
        let _ = self.events.send(event);
        last
    }

    fn leave(&mut self) {
        self.start();
        if std::mem::take(&mut self.open) {
            self.monitor.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.open {
            let error = match self.monitor.life() {
                Life::Dead => RequestError::EngineDead,
                Life::Running | Life::Draining | Life::Ended => RequestError::ShuttingDown,
            };
            self.send(Event::Failed(error));
        }
    }
}
