//! The scheduler after a step: what its rows mean for the requests that asked.

use super::{Output, Scheduler};
use crate::cache::RequestCache;
use crate::plan::{PlanEntry, Row, StepOutput, StepPlan};
use crate::request::{Request, RequestId, Work};
use crate::{Event, FinishReason, RequestError, stop};
use std::time::Instant;

impl Scheduler {
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

    pub(super) fn finish(
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
}
