//! A generation as chunks of JSON, in the order in which its events come.

use super::{Generation, Progress};
use crate::wire::reply::{Api, Choice, Logprobs, Reply};
use crate::{ApiError, sse};
use futures_util::stream::{Stream, unfold};
use std::collections::VecDeque;

impl Generation {
    /// All of it as it comes, each chunk as JSON.
    pub(super) fn stream(self, include_usage: bool) -> impl Stream<Item = String> + Send + 'static {
        let state = Streaming {
            generation: Some(self),
            include_usage,
            ready: VecDeque::new(),
        };
        unfold(state, |mut state| async move {
            state.fill().await;
            state.ready.pop_front().map(|text| (text, state))
        })
    }
}

/// A generation that is being sent.
struct Streaming {
    /// None once it has ended; what still ran is aborted then.
    generation: Option<Generation>,
    include_usage: bool,
    ready: VecDeque<String>,
}

impl Streaming {
    /// Waits until something is ready to be sent, or all is sent.
    async fn fill(&mut self) {
        while self.ready.is_empty()
            && let Some(generation) = &mut self.generation
        {
            match generation.next().await {
                Some(Ok((index, progress))) => self.push(index, progress),
                Some(Err(error)) => {
                    self.ready.push_back(error.json());
                    self.end();
                }
                None => {
                    if self.include_usage {
                        let chunk = generation.envelope.usage_chunk(generation.usage);
                        self.ready.push_back(json(&chunk));
                    }
                    self.end();
                }
            }
        }
    }

    fn end(&mut self) {
        self.ready.push_back(sse::DONE.to_owned());
        self.generation = None;
    }

    /// The chunks of one step: the role before all else (chat), then text, then the end.
    fn push(&mut self, index: usize, progress: Progress) {
        let Some(Generation {
            envelope,
            choices,
            logprobs,
            ..
        }) = &mut self.generation
        else {
            return;
        };
        let (api, choice) = (envelope.api, &mut choices[index]);
        let mut send = |choice: Choice<'_>| {
            self.ready
                .push_back(json(&envelope.chunk(choice, self.include_usage)));
        };
        if !std::mem::replace(&mut choice.opened, true) && api == Api::Chat {
            send(Choice::opening(index));
        }
        if !progress.text.is_empty() || !progress.tokens.is_empty() {
            let tokens = &progress.tokens;
            let logprobs = logprobs.then(|| Logprobs::new(api, tokens, &mut choice.offset));
            send(Choice::part(api, index, &progress.text, logprobs));
        }
        if progress.end.is_some() {
            send(Choice::last(api, index).ended(progress.end));
        }
    }
}

fn json(reply: &Reply<'_>) -> String {
    serde_json::to_string(reply).unwrap_or_else(|error| ApiError::internal(error).json())
}
