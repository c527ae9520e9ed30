//! [`Scheduler`]: who computes how many tokens in the next step. There is no prefill and no decode here: a request has
//! tokens that are not computed yet, and each step gives it some of them, under one budget.
//!
//! Owns: all requests, the queue of those who wait, the list of those who run, the cache's book-keeping. Must not know:
//! tensors, clocks (the time is passed in), threads, text.
//!
//! Invariants: a plan never exceeds the token budget, names each request once, and only gives out blocks that are there;
//! whoever waits holds no block; a request alone can always go on, because the engine does not start with a cache that
//! cannot hold one of full length.

use crate::cache::{BlockCopy, CacheManager, CacheShape, RequestCache};
use crate::plan::{PlanEntry, Row, StepOutput, StepPlan};
use crate::request::{ClientId, Order, Request, RequestId, Requests, Work};
use crate::{Event, FinishReason, RequestError, Stats, stop};
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

    /// Plans the next step, or completes what [`Scheduler::plan_ahead`] has planned of it.
    pub(crate) fn schedule(&mut self, now: Instant, plan: &mut StepPlan) {
        std::mem::swap(plan, &mut self.ahead);
        self.ahead.clear();
        if plan.entries.is_empty() {
            self.stats.preemptions += plan.preempted as u64;
            plan.clear();
            plan.prompt_room = self.prompt_room();
            self.schedule_running(plan);
        }
        // Whoever was preempted gets the next room, not somebody new.
        if plan.preempted == 0 {
            self.schedule_waiting(now, plan);
        }
        plan.copies.append(&mut self.copies);
        self.stats.steps += u64::from(!plan.entries.is_empty());
        self.stats.preemptions += plan.preempted as u64;
    }

    /// Plans the step after `plan` while that one is computed, as if each of its requests went on; [`Scheduler::update`] tells
    /// which do. Nothing is planned after a step in which a request forks, as who runs then is known only afterwards, nor where
    /// layers keep a state, as the one that a step has read is free when it is done.
    pub(crate) fn plan_ahead(&mut self, now: Instant, plan: &mut StepPlan) {
        let forks = plan.entries.iter().any(|entry| entry.samples > 1);
        if forks || self.cache.has_states() {
            return;
        }
        plan.counted = true;
        for entry in &plan.entries {
            let request = &mut self.requests[entry.id];
            request.num_computed += entry.num_scheduled;
            if entry.samples > 0 && matches!(request.work, Work::Generate(_)) {
                request.tokens.push(StepPlan::UNKNOWN);
            }
        }
        let mut next = std::mem::take(&mut self.ahead);
        next.prompt_room = self.prompt_room();
        self.schedule_running(&mut next);
        if next.preempted == 0 {
            self.schedule_waiting(now, &mut next);
        }
        self.ahead = next;
    }

    /// Those who run get their next tokens, in the order in which they started.
    fn schedule_running(&mut self, plan: &mut StepPlan) {
        let mut at = 0;
        while at < self.running.len() && plan.tokens < self.config.max_batch_tokens {
            let id = self.running[at];
            let count = self.chunk(&self.requests[id], plan);
            if count == 0 {
                at += 1;
            } else if self.grow(id, count) {
                self.plan_entry(id, count, false, plan);
                at += 1;
            } else if let Some(victim) = self.victim() {
                // It may be this one, or one that has its tokens already: then these go back to the budget.
                let was_at = self.preempt(victim, plan);
                at -= usize::from(was_at < at);
            }
        }
    }

    /// Those who wait start, best first, until one does not fit.
    fn schedule_waiting(&mut self, now: Instant, plan: &mut StepPlan) {
        let limit = self.running_limit();
        while plan.tokens < self.config.max_batch_tokens && plan.prompt_room > 0 {
            let Some((&order, &id)) = self.waiting.first_key_value() else {
                return;
            };
            let request = &self.requests[id];
            let places = (request.unforked as usize).min(limit);
            let whole = self.config.chunked
                || plan.tokens + request.tokens.len() <= self.config.max_batch_tokens;
            if !whole || self.running_places() + places > limit {
                return;
            }
            let request = &mut self.requests[id];
            let keep = !self.running.is_empty();
            let Request {
                cache,
                salt,
                tokens,
                max_total,
                ..
            } = request;
            let Some(hit) = self.cache.admit(cache, salt, tokens, *max_total, keep) else {
                return;
            };
            request.num_computed = hit;
            let first = request.started.is_none();
            if first {
                request.started = Some(now);
                request.cached = hit;
                request.reserve();
                self.stats.prompt_tokens += request.prompt_len as u64;
                self.stats.prompt_tokens_cached += hit as u64;
            }
            if self.cache.prefix_cache() {
                self.stats.prefix_queries += request.tokens.len() as u64;
                self.stats.prefix_hits += hit as u64;
            }
            self.waiting.remove(&order);
            self.running.push(id);
            let count = self.chunk(&self.requests[id], plan);
            if !self.grow(id, count) {
                debug_assert!(false, "admission found room that is not there");
                self.preempt(id, plan);
                return;
            }
            self.plan_entry(id, count, first, plan);
        }
    }

    /// The step of `plan` gave `output`: takes the tokens in, publishes full blocks, ends who is done. Emptied: `output`.
    pub(crate) fn update(
        &mut self,
        plan: &StepPlan,
        output: &mut StepOutput,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        debug_assert_eq!(
            plan.entries
                .iter()
                .map(|e| e.samples as usize)
                .sum::<usize>(),
            output.rows.len(),
            "rows of the step"
        );
        self.stats.computed_tokens += plan.tokens as u64;
        let mut rows = output.rows.drain(..);
        for entry in &plan.entries {
            let mut rows = rows.by_ref().take(entry.samples as usize);
            // Gone with a failed sibling in this very step.
            let Some(request) = self.requests.get(entry.id) else {
                rows.for_each(drop);
                continue;
            };
            let client = request.client;
            let taken = self.take_rows((entry, plan.counted), &mut rows, now, out);
            rows.for_each(drop);
            if let Err(error) = taken {
                self.fail(client, error, out);
            }
        }
    }

    /// Ends every request of the plan: its step failed.
    pub(crate) fn fail_step(
        &mut self,
        plan: &StepPlan,
        error: &RequestError,
        out: &mut Vec<Output>,
    ) {
        for entry in &plan.entries {
            if let Some(request) = self.requests.get(entry.id) {
                self.fail(request.client, error.clone(), out);
            }
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

    /// One entry's part of [`Scheduler::update`].
    fn take_rows(
        &mut self,
        (entry, counted): (&PlanEntry, bool),
        rows: &mut dyn Iterator<Item = Row>,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Result<(), RequestError> {
        let request = &mut self.requests[entry.id];
        if !counted {
            request.num_computed += entry.num_scheduled;
        }
        let Request {
            cache,
            salt,
            tokens,
            num_computed,
            ..
        } = request;
        self.cache.commit(cache, salt, tokens, *num_computed);
        if entry.samples == 0 {
            return Ok(());
        }
        if counted && matches!(request.work, Work::Generate(_)) {
            // The token's place, which `plan_ahead` has kept for it.
            request.tokens.pop();
        }
        let forks = std::mem::replace(&mut request.unforked, 1).saturating_sub(1);
        let first = rows.next().ok_or(RequestError::NotFinite)?;
        // Forks copy the request as it is before its own first token.
        for child in 1..=forks {
            let row = rows.next().ok_or(RequestError::NotFinite)?;
            let forked = self.fork(entry.id, child);
            self.take_row(forked, row, now, out)?;
        }
        self.take_row(entry.id, first, now, out)
    }

    fn take_row(
        &mut self,
        id: RequestId,
        row: Row,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Result<(), RequestError> {
        let request = &mut self.requests[id];
        let client = request.client;
        let (token, logprob) = match row {
            Row::Failed(error) => return Err(error),
            Row::Pooled(values) => {
                let (usage, timings) = (request.usage(), request.timings(now));
                self.stats.finished_pooled += 1;
                drop(self.remove(id));
                let event = Event::Pooled {
                    values,
                    usage,
                    timings,
                };
                out.push(Output { client, event });
                return Ok(());
            }
            Row::Token { id, logprob } => (id, logprob),
        };
        request.push(token);
        request.first_token.get_or_insert(now);
        self.stats.generation_tokens += 1;
        let event = Event::Token {
            child: request.order.child,
            id: token,
            logprob,
        };
        out.push(Output { client, event });
        let Work::Generate(params) = &request.work else {
            return Ok(());
        };
        let at_limit = request.tokens.len() >= request.max_total;
        let eos = &self.config.eos_ids;
        if let Some(end) = stop::check(params, eos, token, request.outputs(), at_limit) {
            self.finish(id, end, now, out);
        }
        Ok(())
    }

    /// Continuation `child` of `parent`, whose prompt is computed. It runs if there is a place and a block for it, else it
    /// waits like a preempted request.
    fn fork(&mut self, parent: RequestId, child: u32) -> RequestId {
        let place = self.running_places() < self.running_limit();
        let request = &self.requests[parent];
        let cache = if place {
            let computed = request.num_computed;
            self.cache.fork(&request.cache, computed, &mut self.copies)
        } else {
            None
        };
        let mut forked = request.forked(child);
        let runs = cache.is_some();
        (forked.cache, forked.num_computed) = match cache {
            Some(cache) => (cache, request.num_computed),
            None => (RequestCache::default(), 0),
        };
        let order = forked.order;
        let id = self.requests.insert(forked);
        if runs {
            self.running.push(id);
        } else {
            self.waiting.insert(order, id);
        }
        id
    }

    fn finish(
        &mut self,
        id: RequestId,
        (reason, stop): (FinishReason, Option<crate::StopReason>),
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let Some(request) = self.remove(id) else {
            return;
        };
        let counter = match reason {
            FinishReason::Stop => &mut self.stats.finished_stop,
            FinishReason::Length => &mut self.stats.finished_length,
            FinishReason::Aborted => &mut self.stats.finished_aborted,
        };
        *counter += 1;
        let (usage, timings) = (request.usage(), request.timings(now));
        let first = request.order.child;
        for child in first..first + request.unforked {
            out.push(Output {
                client: request.client,
                event: Event::Finished {
                    child,
                    reason,
                    stop: stop.clone(),
                    usage,
                    timings,
                },
            });
        }
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

    /// What prompts may take of the next step.
    fn prompt_room(&self) -> usize {
        let config = &self.config;
        let mut running = self.running.iter();
        let limited = config.chunked && running.any(|&id| self.requests[id].missing() == 1);
        if limited {
            config.max_beside.min(config.max_batch_tokens)
        } else {
            config.max_batch_tokens
        }
    }

    /// Tokens that `request` computes next: what it misses, what the budget leaves; a part of it ends where the cache can
    /// keep a state. 0: it has to wait for another step.
    fn chunk(&self, request: &Request, plan: &StepPlan) -> usize {
        let (done, missing) = (request.num_computed, request.missing());
        if request.tokens.last() == Some(&StepPlan::UNKNOWN)
            && request.tokens.len() >= request.max_total
        {
            // It ends with the step that is being computed.
            return 0;
        }
        let mut count = missing.min(self.config.max_batch_tokens - plan.tokens);
        if missing > 1 {
            count = count.min(plan.prompt_room);
        }
        let multiple = self.cache.chunk_multiple();
        let end = (done + count) / multiple * multiple;
        if count < missing && end > done {
            end - done
        } else {
            count
        }
    }

    fn grow(&mut self, id: RequestId, count: usize) -> bool {
        let Request {
            cache,
            num_computed,
            ..
        } = &mut self.requests[id];
        self.cache.grow(cache, *num_computed, count)
    }

    fn plan_entry(&mut self, id: RequestId, count: usize, first: bool, plan: &mut StepPlan) {
        let request = &self.requests[id];
        plan.tokens += count;
        if request.missing() > 1 {
            plan.prompt_room -= count;
        }
        plan.entries.push(PlanEntry {
            id,
            num_scheduled: count,
            samples: if count == request.missing() {
                request.unforked
            } else {
                0
            },
            first,
        });
    }

    /// Who gives up its blocks first: the last in order of priority and arrival.
    fn victim(&self) -> Option<RequestId> {
        let running = self.running.iter().copied();
        running.max_by_key(|&id| self.requests[id].order)
    }

    /// Takes all blocks of `victim` and puts it back in the queue, where its arrival makes it the first of its priority.
    /// Gives its place among the running.
    fn preempt(&mut self, victim: RequestId, plan: &mut StepPlan) -> usize {
        let request = &mut self.requests[victim];
        self.cache.free(&mut request.cache);
        request.num_computed = 0;
        self.waiting.insert(request.order, victim);
        // A planned prompt does not give its room back: the step is none the slower for it.
        plan.remove(victim);
        plan.preempted += 1;
        let at = self.running.iter().position(|&id| id == victim);
        let at = at.expect("only running requests are preempted");
        self.running.remove(at);
        at
    }

    /// Most requests that can run: one that gets no token in a step does not run.
    fn running_limit(&self) -> usize {
        self.config.max_running.min(self.config.max_batch_tokens)
    }

    /// Places taken, those of continuations that are not forked yet included.
    fn running_places(&self) -> usize {
        let limit = self.running_limit();
        let running = self.running.iter();
        running
            .map(|&id| (self.requests[id].unforked as usize).min(limit))
            .sum()
    }
}

#[cfg(test)]
mod tests;
