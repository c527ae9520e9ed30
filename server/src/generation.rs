//! [`Job`] and [`Generation`]: prompts submitted, their events gathered into one reply or sent on as a stream.
//!
//! Owns: which choice an event belongs to, usage, what the observer hears. Must not know: JSON's fields beyond the
//! reply's own types. Invariant: the whole reply and the stream read the same events, so their texts are the same; dropping
//! either aborts what still runs.

mod report;
mod stream;

use crate::call::{Call, fresh_id};
use crate::encode::Prompt;
use crate::routes::{answer, unix_now, with_model};
use crate::wire::UsageReply;
use crate::wire::generate::Generate;
use crate::wire::reply::{Api, Choice, Envelope, Logprobs, StopReasonReply, TokenReply};
use crate::{ApiError, AppState, ServedModel, sse};
use axum::response::Response;
use futures_util::stream::{BoxStream, SelectAll, StreamExt, select_all, unfold};
use koma_engine::text::{StopStrings, TextEvent, TextOptions, TextStream, TokenText};
use koma_engine::{FinishReason, RequestError, SamplingParams, StopReason, Task, TokenLogprob};
use report::Report;
use std::sync::Arc;
use std::time::Instant;

/// A generation that is about to be submitted.
pub(crate) struct Job<'a> {
    state: &'a AppState,
    call: &'a Call,
    model: Arc<ServedModel>,
    api: Api,
    generate: Generate,
    params: SamplingParams,
    /// Shared between all continuations of all prompts.
    stops: StopStrings,
}

impl<'a> Job<'a> {
    /// Checks the decoding options against the model.
    pub(crate) fn new(
        state: &'a AppState,
        call: &'a Call,
        model: &Arc<ServedModel>,
        api: Api,
        generate: Generate,
    ) -> Result<Self, ApiError> {
        let params = generate.sampling(model.handle.info().limits.vocab)?;
        Ok(Self {
            state,
            call,
            model: Arc::clone(model),
            api,
            stops: StopStrings::new(params.stop(), generate.include_stop),
            generate,
            params,
        })
    }

    /// The most prompt tokens that leave room for the output.
    pub(crate) fn room(&self) -> usize {
        let output = self.params.max_tokens().unwrap_or(1);
        let window = self.model.handle.info().limits.max_len;
        window.saturating_sub(output).max(1)
    }

    /// # Errors
    /// If `prompts` times `n` are more continuations than one request may have.
    pub(crate) fn check_count(&self, prompts: usize) -> Result<(), ApiError> {
        let (n, most) = (self.params.n(), self.state.limits().inputs);
        if prompts.saturating_mul(n as usize) <= most {
            return Ok(());
        }
        let message = format!("{prompts} prompts times {n} are more than {most} continuations");
        Err(ApiError::field("n", message))
    }

    /// Submits `prompts` and answers as the client asked.
    pub(crate) async fn answer(self, prompts: Vec<Prompt>) -> Result<Response, ApiError> {
        let model = Arc::clone(&self.model);
        let (stream, include_usage) = (self.generate.stream, self.generate.include_usage);
        let generation = self.submit(prompts)?;
        if stream {
            let response = sse::reply(generation.stream(include_usage));
            return Ok(with_model(&model, response));
        }
        generation.whole(&model).await
    }

    fn submit(self, prompts: Vec<Prompt>) -> Result<Generation, ApiError> {
        let count = prompts.len();
        let mut streams = Vec::with_capacity(count);
        for (i, prompt) in prompts.into_iter().enumerate() {
            streams.push(numbered(i, self.submit_one(prompt)?));
        }
        let n = self.params.n() as usize;
        Ok(Generation {
            envelope: Envelope {
                api: self.api,
                id: format!("{}-{}", self.api.id_prefix(), fresh_id()),
                created: unix_now(),
                model: self.model.name().to_owned(),
                fingerprint: format!("koma-{}", self.model.short_hash()),
            },
            events: select_all(streams),
            choices: (0..count * n).map(|_| Partial::default()).collect(),
            n,
            logprobs: self.generate.options.logprobs.is_some(),
            usage: UsageReply::default(),
            report: Report {
                observer: Arc::clone(self.state.observer()),
                model: Arc::clone(&self.model),
                arrived: self.call.arrived,
                n: self.params.n(),
                max_tokens: self.params.max_tokens(),
            },
        })
    }

    fn submit_one(&self, prompt: Prompt) -> Result<TextStream, ApiError> {
        let handle = &self.model.handle;
        let task = Task::Generate(self.params.clone());
        let admission = &self.generate.admission;
        let request = self
            .call
            .request(prompt.ids.clone(), Vec::new(), task, admission);
        let events = handle.submit(request).map_err(|error| {
            let error = self.model.refusal(error);
            let observer = self.state.observer();
            observer.refused(self.model.name(), error.code.unwrap_or_default());
            error.about(prompt.name)
        })?;
        let options = TextOptions {
            params: &self.params,
            prompt: &prompt.ids,
            eos_ids: &handle.info().chat.eos_ids,
            stops: &self.stops,
        };
        Ok(TextStream::new(events, handle.tokenizer(), &options))
    }
}

/// The events of prompt `i`, with its number.
fn numbered(i: usize, stream: TextStream) -> BoxStream<'static, (usize, TextEvent)> {
    let next = move |mut stream: TextStream| async move {
        let event = stream.next().await?;
        Some(((i, event), stream))
    };
    unfold(stream, next).boxed()
}

/// A submitted generation. Dropping it aborts it.
pub(crate) struct Generation {
    envelope: Envelope,
    events: SelectAll<BoxStream<'static, (usize, TextEvent)>>,
    /// Choice `prompt * n + child`.
    choices: Vec<Partial>,
    n: usize,
    logprobs: bool,
    usage: UsageReply,
    report: Report,
}

/// What is known of a choice so far.
#[derive(Debug, Default)]
struct Partial {
    /// When its last tokens came.
    last: Option<Instant>,
    /// Characters of its tokens so far.
    offset: usize,
    /// Whether its first chunk was sent.
    opened: bool,
    ended: bool,
}

/// What one event adds to a choice.
#[derive(Debug, Default)]
struct Progress {
    text: String,
    tokens: Vec<TokenReply>,
    end: Option<End>,
}

/// How a choice ended.
#[derive(Debug)]
struct End {
    reason: &'static str,
    stop: Option<StopReasonReply>,
}

impl Generation {
    /// What the next event adds, and to which choice; none once all choices have ended.
    async fn next(&mut self) -> Option<Result<(usize, Progress), ApiError>> {
        let Some((prompt, event)) = self.events.next().await else {
            let all = self.choices.iter().all(|choice| choice.ended);
            return (!all).then(|| Err(self.report.failed(RequestError::EngineDead)));
        };
        let at = |child: u32| prompt * self.n + child as usize;
        match event {
            TextEvent::Delta {
                child,
                text,
                tokens,
            } => {
                let index = at(child);
                let choice = self.choices.get_mut(index)?;
                self.report.tokens(&mut choice.last, tokens.len());
                let tokens = tokens
                    .into_iter()
                    .filter_map(|token| self.token(token))
                    .collect();
                let end = None;
                Some(Ok((index, Progress { text, tokens, end })))
            }
            TextEvent::Finished {
                child,
                reason,
                stop,
                usage,
                timings,
            } => {
                let index = at(child);
                self.choices.get_mut(index)?.ended = true;
                if child == 0 {
                    self.usage.add_prompt(usage);
                }
                self.usage.add_completion(usage);
                self.report.finished(reason, usage, timings);
                let end = Some(End::new(reason, stop));
                Some(Ok((
                    index,
                    Progress {
                        end,
                        ..Progress::default()
                    },
                )))
            }
            TextEvent::Failed(error) => Some(Err(self.report.failed(error))),
        }
    }

    /// A token with its log-probability, if that was asked for.
    fn token(&self, token: TokenText) -> Option<TokenReply> {
        let TokenLogprob { logprob, top } = token.logprob?;
        let tokenizer = self.report.model.handle.tokenizer();
        let named = |(id, logprob)| {
            let mut bytes = Vec::new();
            tokenizer.append(id, false, &mut bytes);
            (bytes, logprob)
        };
        Some(TokenReply {
            bytes: token.bytes,
            logprob,
            top: top.into_iter().map(named).collect(),
        })
    }

    /// Waits for all of it.
    async fn whole(mut self, model: &ServedModel) -> Result<Response, ApiError> {
        let mut parts: Vec<Progress> = Vec::new();
        parts.resize_with(self.choices.len(), Progress::default);
        while let Some(progress) = self.next().await {
            let (index, progress) = progress?;
            let part = &mut parts[index];
            part.text.push_str(&progress.text);
            part.tokens.extend(progress.tokens);
            part.end = progress.end.or(part.end.take());
        }
        let api = self.envelope.api;
        let choices = parts.iter_mut().enumerate().map(|(index, part)| {
            let tokens = std::mem::take(&mut part.tokens);
            let logprobs = self.logprobs.then(|| Logprobs::new(api, &tokens, &mut 0));
            Choice::whole(api, index, &part.text, logprobs).ended(part.end.take())
        });
        let reply = self.envelope.whole(choices.collect(), self.usage);
        Ok(answer(model, &reply))
    }
}

impl End {
    fn new(reason: FinishReason, stop: Option<StopReason>) -> Self {
        let reason = match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Aborted => "abort",
        };
        let stop = match stop {
            Some(StopReason::Token(id)) => Some(StopReasonReply::Token(id)),
            Some(StopReason::Text(text)) => Some(StopReasonReply::Text(text)),
            Some(StopReason::Eos) | None => None,
        };
        Self { reason, stop }
    }
}

impl Choice<'_> {
    fn ended(mut self, end: Option<End>) -> Self {
        if let Some(end) = end {
            self.finish_reason = Some(end.reason);
            self.stop_reason = end.stop;
        }
        self
    }
}
