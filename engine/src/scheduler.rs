//! [`Scheduler`]: who computes how many tokens in the next step. There is no prefill and no decode here: a request has
//! tokens that are not computed yet, and each step gives it some of them, under one budget.
//!
//! Owns: all requests, the queue of those who wait, the list of those who run, the cache's book-keeping. Must not know:
//! tensors, clocks (the time is passed in), threads, text.
//!
//! Invariants: a plan never exceeds the token budget, names each request once, and only gives out blocks that are there;
//! whoever waits holds no block; a request alone can always go on, because the engine does not start with a cache that
//! cannot hold one of full length.

mod planning;
mod results;
#[cfg(test)]
mod tests;

use crate::cache::{BlockCopy, CacheManager, CacheShape};
use crate::plan::StepPlan;
use crate::request::{ClientId, Order, Request, RequestId, Requests};
use crate::{Event, FinishReason, RequestError, Stats};
use std::collections::BTreeMap;
use std::time::Instant;

/// Limits of a scheduler.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerConfig {
    /// Most requests that run at once, continuations counted one by one.
    pub(crate) max_running: usize,
    /// Token budget of a step.
    pub(crate) max_batch_tokens: usize,
    /// What prompts may take of it while others generate, if prompts may be computed in parts. Generation waits for every step
    /// to its end; few tokens more than it has itself are nearly free, as the weights are read anyway.
    pub(crate) max_beside: usize,
    /// Whether a prompt may be computed in parts (models that see backwards only).
    pub(crate) chunked: bool,
    /// Ids that end a generation.
    pub(crate) eos_ids: Vec<u32>,
    /// The cache.
    pub(crate) cache: CacheShape,
}

/// An event and whom it is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Output {
    /// Who submitted.
    pub(crate) client: ClientId,
    /// What it hears.
    pub(crate) event: Event,
}

/// The scheduler of one model.
#[derive(Debug)]
pub(crate) struct Scheduler {
    config: SchedulerConfig,
    requests: Requests,
    waiting: BTreeMap<Order, RequestId>,
    running: Vec<RequestId>,
    cache: CacheManager,
    /// Copies that forks ask of the next step.
    copies: Vec<BlockCopy>,
    /// The next step, as far as it was planned while another is computed; empty if it was not.
    ahead: StepPlan,
    arrivals: u64,
    stats: Stats,
}

impl Scheduler {
    /// [`SchedulerConfig::max_beside`] of engines. Products reach their full speed at about so many rows.
    pub(crate) const BESIDE: usize = 64;

    /// An idle scheduler.
    pub(crate) fn new(config: SchedulerConfig) -> Self {
        Self {
            requests: Requests::default(),
            waiting: BTreeMap::new(),
            running: Vec::with_capacity(config.max_running),
            cache: CacheManager::new(&config.cache),
            copies: Vec::new(),
            ahead: StepPlan::default(),
            arrivals: 0,
            stats: Stats {
                blocks_total: config.cache.blocks * config.cache.groups.len(),
                ..Stats::default()
            },
            config,
        }
    }

    /// All requests that have not ended.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Whether the next step is planned already, as far as it goes.
    pub(crate) fn is_planned(&self) -> bool {
        !self.ahead.entries.is_empty()
    }

    /// Whether nothing runs or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Counters, and gauges of now.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_used: self.cache.used(),
            ..self.stats
        }
    }

    /// Puts a request in the queue; its arrival is set here.
    pub(crate) fn add(&mut self, mut request: Request) -> RequestId {
        request.order.arrival = self.arrivals;
        self.arrivals += 1;
        let order = request.order;
        let id = self.requests.insert(request);
        self.waiting.insert(order, id);
        id
    }

    /// Ends the continuations of `client` that `children` has bits for, for `reason`.
    pub(crate) fn end_children(
        &mut self,
        client: ClientId,
        (children, reason): (u128, FinishReason),
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let is_named = |r: &Request| {
            // One that is not forked yet stands for all its continuations: it ends only when all are named.
            let all = u128::MAX >> (128 - r.unforked.clamp(1, 128)) << r.order.child;
            r.client == client && children & all == all
        };
        let named = self.requests.iter().filter(|(_, r)| is_named(r));
        let ids: Vec<RequestId> = named.map(|(id, _)| id).collect();
        for id in ids {
            self.finish(id, (reason, None), now, out);
        }
    }

    /// Ends all requests of `client` with an error. It hears of it once.
    pub(crate) fn fail(&mut self, client: ClientId, error: RequestError, out: &mut Vec<Output>) {
        let of_client = self.requests.iter().filter(|(_, r)| r.client == client);
        let ids: Vec<RequestId> = of_client.map(|(id, _)| id).collect();
        if ids.is_empty() {
            return;
        }
        for id in ids {
            self.remove(id);
        }
        self.stats.finished_failed += 1;
        out.push(Output {
            client,
            event: Event::Failed(error),
        });
    }

    /// Fails whoever is past a deadline.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut Vec<Output>) {
        let past = |deadline: Option<Instant>| deadline.is_some_and(|d| d <= now);
        loop {
            let late = self.requests.iter().find_map(|(_, r)| {
                if past(r.deadline) {
                    Some((r.client, RequestError::Deadline))
                } else if r.started.is_none() && past(r.queue_deadline) {
                    Some((r.client, RequestError::QueueDeadline))
                } else {
                    None
                }
            });
            let Some((client, error)) = late else { return };
            self.fail(client, error, out);
        }
    }

    /// Proves the invariants of cache and queues by counting anew.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub(crate) fn check_integrity(&self) -> Result<(), String> {
        let held = self.requests.iter();
        self.cache
            .check_integrity(held.map(|(_, r)| (&r.cache, r.num_computed)))?;
        let queued = self.waiting.len() + self.running.len();
        if queued != self.requests.iter().count() {
            return Err(format!(
                "{queued} requests are queued, but not all, or not once"
            ));
        }
        if self.running.len() > self.running_limit() {
            return Err(format!("{} requests run", self.running.len()));
        }
        if self.is_idle() && self.cache.used() > 0 {
            return Err(format!(
                "nobody is here, but {} blocks are held",
                self.cache.used()
            ));
        }
        Ok(())
    }

    /// Takes a request out of everything.
    fn remove(&mut self, id: RequestId) -> Option<Request> {
        let mut request = self.requests.remove(id)?;
        self.ahead.remove(id);
        self.cache.free(&mut request.cache);
        if self.waiting.remove(&request.order).is_none() {
            self.running.retain(|&r| r != id);
        }
        Some(request)
    }
}
