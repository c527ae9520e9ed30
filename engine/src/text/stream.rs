//! [`TextStream`]: a generation's events as text.
//!
//! Owns: one detokenizer and one set of stop strings per continuation. Must not know: scheduling, wire formats.
//!
//! Invariants: every token of a continuation is in exactly one delta, in order, and comes no later than the
//! text it is part of; after a stop string nothing of its continuation follows but its end; the other continuations go on.

use super::{Detokenizer, StopStrings};
use crate::{
    Event, EventStream, FinishReason, RequestError, SamplingParams, StopReason, Timings,
    TokenLogprob, Usage,
};
use koma_models::Tokenizer;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a stream needs to know of its request.
#[derive(Debug, Clone, Copy)]
pub struct TextOptions<'a> {
    /// As submitted.
    pub params: &'a SamplingParams,
    /// The prompt as submitted.
    pub prompt: &'a [u32],
    /// The model's end ids.
    pub eos_ids: &'a [u32],
    /// The stop strings, not begun; whether they are part of the text holds for stop tokens too. The streams of one
    /// request share their tables.
    pub stops: &'a StopStrings,
}

/// A token behind a delta.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenText {
    /// The token.
    pub id: u32,
    /// Its bytes, maybe only a part of a character; a special token's spelling.
    pub bytes: Vec<u8>,
    /// If asked for.
    pub logprob: Option<TokenLogprob>,
}

/// An event of a generation. `child` counts its continuations from 0.
#[derive(Debug, Clone, PartialEq)]
pub enum TextEvent {
    /// More text.
    Delta {
        /// Which continuation.
        child: u32,
        /// What is certain now; may be empty in the last delta of a continuation, which brings what tokens are left.
        text: String,
        /// The tokens since the last delta.
        tokens: Vec<TokenText>,
    },
    /// A continuation has ended.
    Finished {
        /// Which continuation.
        child: u32,
        /// Why.
        reason: FinishReason,
        /// What stopped it, for [`FinishReason::Stop`].
        stop: Option<StopReason>,
        /// Its counts; tokens after a stop string are not counted.
        usage: Usage,
        /// Its times.
        timings: Timings,
    },
    /// The request ended without a result; nothing follows.
    Failed(RequestError),
}

/// The text of one request. Dropping it aborts the request.
#[derive(Debug)]
pub struct TextStream {
    events: EventStream,
    children: Vec<Child>,
    rules: Rules,
    ready: VecDeque<TextEvent>,
    ended: bool,
}

/// What is the same for all continuations.
#[derive(Debug)]
struct Rules {
    tokenizer: Arc<Tokenizer>,
    prompt_len: usize,
    min_tokens: usize,
    /// Ids that may end a continuation: whether one did is known with the next event.
    ends: Vec<u32>,
    include_stop: bool,
}

#[derive(Debug)]
struct Child {
    detokenizer: Detokenizer,
    stops: StopStrings,
    state: State,
    /// Tokens so far.
    count: usize,
    /// Tokens that no delta has brought yet.
    tokens: Vec<TokenText>,
    /// A token of [`Rules::ends`] that may or may not have ended it.
    last: Option<(u32, Option<TokenLogprob>)>,
}

#[derive(Debug)]
enum State {
    Running,
    /// A stop string was met; the engine has been told, its word is awaited.
    Stopped(String),
    Finished,
}

impl TextStream {
    /// The text of `events`.
    pub fn new(events: EventStream, tokenizer: &Arc<Tokenizer>, options: &TextOptions<'_>) -> Self {
        let params = options.params;
        let mut ends = params.stop_token_ids.clone();
        if !params.ignore_eos {
            ends.extend_from_slice(options.eos_ids);
        }
        let child = || Child {
            detokenizer: Detokenizer::new(tokenizer, options.prompt),
            stops: options.stops.clone(),
            state: State::Running,
            count: 0,
            tokens: Vec::new(),
            last: None,
        };
        Self {
            events,
            children: std::iter::repeat_with(child)
                .take(params.n() as usize)
                .collect(),
            rules: Rules {
                tokenizer: Arc::clone(tokenizer),
                prompt_len: options.prompt.len(),
                min_tokens: params.min_tokens(),
                ends,
                include_stop: options.stops.include(),
            },
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<TextEvent> {
        loop {
            if self.ended || !self.ready.is_empty() {
                return self.ready.pop_front();
            }
            let event = self.events.next().await;
            self.take(event);
        }
    }

    /// The next event, waiting on an ordinary thread.
    pub fn blocking_next(&mut self) -> Option<TextEvent> {
        loop {
            if self.ended || !self.ready.is_empty() {
                return self.ready.pop_front();
            }
            let event = self.events.blocking_next();
            self.take(event);
        }
    }

    /// Ends all continuations before the next step. What is known of their text still comes, and then their ends, with
    /// [`FinishReason::Stop`].
    pub fn cancel(&self) {
        (0..self.children.len() as u32).for_each(|child| self.events.cancel(child));
    }

    fn take(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Token { child, id, logprob }) => self.token(child, id, logprob),
            Some(Event::Finished {
                child,
                reason,
                stop,
                usage,
                timings,
            }) => self.finished(child, (reason, stop), usage, timings),
            Some(Event::Failed(error)) => self.fail(error),
            Some(Event::Pooled { .. }) => {}
            None => self.closed(),
        }
    }

    fn token(&mut self, index: u32, id: u32, logprob: Option<TokenLogprob>) {
        let Some(child) = self.running(index) else {
            return;
        };
        let before = child.last.take();
        if let Some((id, logprob)) = before {
            self.text(index, id, logprob);
        }
        if self.rules.ends.contains(&id) {
            if let Some(child) = self.running(index) {
                child.last = Some((id, logprob));
            }
        } else {
            self.text(index, id, logprob);
        }
    }

    fn running(&mut self, index: u32) -> Option<&mut Child> {
        let child = self.children.get_mut(index as usize)?;
        matches!(child.state, State::Running).then_some(child)
    }

    /// Takes a token that is part of the text.
    fn text(&mut self, index: u32, id: u32, logprob: Option<TokenLogprob>) {
        let Some(child) = self.children.get_mut(index as usize) else {
            return;
        };
        if !matches!(child.state, State::Running) {
            return;
        }
        child.count(&self.rules, id, logprob);
        let mut piece = String::new();
        child.detokenizer.push(id, &mut piece);
        let mut text = String::new();
        let counts = child.count > self.rules.min_tokens;
        if let Some(stop) = child.stops.push(&piece, counts, &mut text) {
            child.state = State::Stopped(stop);
            self.events.cancel(index);
            self.ready.push_back(child.delta(index, text));
        } else if !text.is_empty() {
            self.ready.push_back(child.delta(index, text));
        }
    }

    fn finished(
        &mut self,
        index: u32,
        (reason, stop): (FinishReason, Option<StopReason>),
        usage: Usage,
        timings: Timings,
    ) {
        let Some(child) = self.running(index) else {
            self.stopped(index, usage, timings);
            return;
        };
        match child.last.take() {
            Some((id, logprob)) if reason == FinishReason::Stop && !self.rules.include_stop => {
                self.children[index as usize].count(&self.rules, id, logprob);
            }
            Some((id, logprob)) => self.text(index, id, logprob),
            None => {}
        }
        let Some(child) = self.running(index) else {
            self.stopped(index, usage, timings);
            return;
        };
        let (mut piece, mut text) = (String::new(), String::new());
        child.detokenizer.finish(&mut piece);
        let hit = child.stops.push(&piece, true, &mut text);
        child.stops.finish(&mut text);
        if !text.is_empty() || !child.tokens.is_empty() {
            let delta = child.delta(index, text);
            self.ready.push_back(delta);
        }
        let (reason, stop) = match hit {
            Some(stop) => (FinishReason::Stop, Some(StopReason::Text(stop))),
            None => (reason, stop),
        };
        self.end(index, (reason, stop), usage, timings);
    }

    /// The engine's word on a continuation that met a stop string.
    fn stopped(&mut self, index: u32, usage: Usage, timings: Timings) {
        let Some(child) = self.children.get_mut(index as usize) else {
            return;
        };
        let State::Stopped(stop) = &mut child.state else {
            return;
        };
        let stop = StopReason::Text(std::mem::take(stop));
        let usage = Usage {
            completion: child.count,
            ..usage
        };
        self.end(index, (FinishReason::Stop, Some(stop)), usage, timings);
    }

    fn end(
        &mut self,
        child: u32,
        (reason, stop): (FinishReason, Option<StopReason>),
        usage: Usage,
        timings: Timings,
    ) {
        self.children[child as usize].state = State::Finished;
        self.ready.push_back(TextEvent::Finished {
            child,
            reason,
            stop,
            usage,
            timings,
        });
        let finished = |child: &Child| matches!(child.state, State::Finished);
        self.ended = self.children.iter().all(finished);
    }

    fn fail(&mut self, error: RequestError) {
        self.ready.push_back(TextEvent::Failed(error));
        self.ended = true;
    }

    /// The engine hung up: in order after a stop string, else a failure of the engine.
    fn closed(&mut self) {
        let usage = Usage {
            prompt: self.rules.prompt_len,
            ..Usage::default()
        };
        for index in 0..self.children.len() as u32 {
            self.stopped(index, usage, Timings::default());
        }
        if !self.ended {
            self.fail(RequestError::EngineDead);
        }
    }
}

impl Child {
    fn count(&mut self, rules: &Rules, id: u32, logprob: Option<TokenLogprob>) {
        let mut bytes = Vec::new();
        rules.tokenizer.append(id, false, &mut bytes);
        self.tokens.push(TokenText { id, bytes, logprob });
        self.count += 1;
    }

    fn delta(&mut self, child: u32, text: String) -> TextEvent {
        TextEvent::Delta {
            child,
            text,
            tokens: std::mem::take(&mut self.tokens),
        }
    }
}

#[cfg(test)]
mod tests;
