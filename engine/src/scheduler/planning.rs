//! The scheduler before a step: who gets how many tokens of it.

use super::Scheduler;
use crate::plan::{PlanEntry, StepPlan};
use crate::request::{Request, RequestId, Work};
use std::time::Instant;

impl Scheduler {
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
    pub(super) fn running_limit(&self) -> usize {
        self.config.max_running.min(self.config.max_batch_tokens)
    }

    /// Places taken, those of continuations that are not forked yet included.
    pub(super) fn running_places(&self) -> usize {
        let limit = self.running_limit();
        let running = self.running.iter();
        running
            .map(|&id| (self.requests[id].unforked as usize).min(limit))
            .sum()
    }
}
