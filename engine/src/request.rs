//! [`Request`]: one continuation of one prompt, from admission to its end; and [`Requests`], the one map of them.
//!
//! Owns: a request's tokens, progress and cache. Must not know: how it is scheduled, who listens.
//!
//! Invariant: `num_computed < tokens.len()` between steps; `tokens[..num_computed]` are in the cache.

use crate::cache::{RequestCache, Salt};
use crate::tally::Tally;
use crate::{PoolingParams, SamplingParams, Timings, Usage};
use std::sync::Arc;
use std::time::Instant;

/// Place of a request in [`Requests`]. Reused after the request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(u32);

/// Who submitted a request; its `n` continuations share it.
pub(crate) type ClientId = u32;

/// Who goes first: lower priority values, then earlier arrivals, then lower children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    /// Lower goes first.
    pub(crate) priority: i32,
    /// Counts submissions.
    pub(crate) arrival: u64,
    /// Counts continuations.
    pub(crate) child: u32,
}

/// What is asked, with valid parameters.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Continue the prompt.
    Generate(Arc<SamplingParams>),
    /// Turn it into a row.
    Pool(PoolingParams),
}

/// One continuation of a prompt. A request for `n` of them is one `Request` until its prompt is computed.
#[derive(Debug)]
pub(crate) struct Request {
    /// Who listens.
    pub(crate) client: ClientId,
    /// Its place in the queue; also which continuation it is.
    pub(crate) order: Order,
    /// Prompt and output so far.
    pub(crate) tokens: Vec<u32>,
    /// How often it gave which, where its parameters ask.
    pub(crate) tally: Tally,
    /// Segments of the prompt; empty means all 0.
    pub(crate) type_ids: Vec<u32>,
    /// Tokens of the prompt.
    pub(crate) prompt_len: usize,
    /// Most tokens, prompt and output.
    pub(crate) max_total: usize,
    /// Tokens whose keys, values and states are in the cache.
    pub(crate) num_computed: usize,
    /// What is asked.
    pub(crate) work: Work,
    /// Continuations it becomes when its prompt is computed; 1 from then on.
    pub(crate) unforked: u32,
    /// What it holds of the cache.
    pub(crate) cache: RequestCache,
    /// Only the same salt shares prefixes.
    pub(crate) salt: Salt,
    /// Fails if not started by then.
    pub(crate) queue_deadline: Option<Instant>,
    /// Fails if not finished by then.
    pub(crate) deadline: Option<Instant>,
    /// Prompt tokens that came from the prefix cache when it first started.
    pub(crate) cached: usize,
    /// When it was submitted.
    pub(crate) submitted: Instant,
    /// When it was first in a step.
    pub(crate) started: Option<Instant>,
    /// When it gave its first token.
    pub(crate) first_token: Option<Instant>,
}

impl Request {
    /// Tokens not computed yet, the newest included.
    pub(crate) fn missing(&self) -> usize {
        self.tokens.len() - self.num_computed
    }

    /// Output tokens so far.
    pub(crate) fn outputs(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Takes in a token of the output.
    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.tally.push(token);
    }

    /// Gives its tokens all the memory that they will ever need.
    pub(crate) fn reserve(&mut self) {
        self.tokens
            .reserve_exact(self.max_total.saturating_sub(self.tokens.len()));
    }

    /// Its continuation `child`, which holds nothing of the cache yet.
    pub(crate) fn forked(&self, child: u32) -> Self {
        let mut tokens = Vec::with_capacity(self.max_total);
        tokens.extend_from_slice(&self.tokens);
        Self {
            order: Order {
                child,
                ..self.order
            },
            tokens,
            tally: self.tally.clone(),
            type_ids: self.type_ids.clone(),
            work: self.work.clone(),
            unforked: 1,
            cache: RequestCache::default(),
            num_computed: 0,
            ..*self
        }
    }

    /// Its counts.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt: self.prompt_len,
            cached: self.cached,
            completion: self.outputs(),
        }
    }

    /// Its times, if it ends at `now`.
    pub(crate) fn timings(&self, now: Instant) -> Timings {
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        Timings {
            queued: started.saturating_duration_since(self.submitted),
            prefill: first.saturating_duration_since(started),
            decode: now.saturating_duration_since(first),
        }
    }
}

/// All admitted requests; queues and plans hold their ids.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: Vec<Option<Request>>,
    unused: Vec<u32>,
}

impl Requests {
    /// Takes a request in.
    pub(crate) fn insert(&mut self, request: Request) -> RequestId {
        if let Some(id) = self.unused.pop() {
            self.slots[id as usize] = Some(request);
            return RequestId(id);
        }
        self.slots.push(Some(request));
        RequestId(self.slots.len() as u32 - 1)
    }

    /// Takes a request out.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let request = self.slots.get_mut(id.0 as usize)?.take()?;
        self.unused.push(id.0);
        Some(request)
    }

    /// The request, if it has not ended.
    pub(crate) fn get(&self, id: RequestId) -> Option<&Request> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    /// All requests.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RequestId, &Request)> + Clone {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(i, slot)| slot.as_ref().map(|r| (RequestId(i as u32), r)))
    }
}

impl std::ops::Index<RequestId> for Requests {
    type Output = Request;

    fn index(&self, id: RequestId) -> &Request {
        self.slots[id.0 as usize]
            .as_ref()
            .expect("queues and plans hold only ids of requests that have not ended")
    }
}

impl std::ops::IndexMut<RequestId> for Requests {
    fn index_mut(&mut self, id: RequestId) -> &mut Request {
        self.slots[id.0 as usize]
            .as_mut()
            .expect("queues and plans hold only ids of requests that have not ended")
    }
}
