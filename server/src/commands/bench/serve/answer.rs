//! What became of a request: an [`Answer`] with its times and counts, or a [`Fault`] of some kind.

use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// A reply that came whole. Times count from when the request was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// When each event with text came; empty for replies that are not streams.
    pub(super) texts: Vec<Duration>,
    /// When the reply ended.
    pub(super) end: Duration,
    /// Tokens of the prompt, as the server counts.
    pub(super) input: Option<usize>,
    /// Tokens of the output, as the server counts.
    pub(super) output: Option<usize>,
    /// Tokens of the prompt that were not computed, as the server counts.
    pub(super) cached: Option<usize>,
}

/// How a request can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FaultKind {
    /// No connection.
    Connect,
    /// No end in time.
    Timeout,
    /// The connection ended before the reply did.
    Disconnected,
    /// A status other than success.
    Status(u16),
    /// An error in a stream that had begun.
    InStream,
    /// A reply that cannot be read.
    Malformed,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// For people.
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Timeout => f.write_str("timeout"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Status(status) => write!(f, "http {status}"),
            Self::InStream => f.write_str("error in stream"),
            Self::Malformed => f.write_str("malformed"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// A chunk of a stream, or a reply that is none.
#[derive(Debug, Deserialize)]
struct Body {
    /// Some servers say null where there is none.
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
    /// Two spellings of what a model thinks aloud.
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Usage {
    #[serde(rename = "prompt_tokens")]
    prompt: Option<usize>,
    #[serde(rename = "completion_tokens")]
    completion: Option<usize>,
    #[serde(rename = "total_tokens")]
    total: Option<usize>,
    #[serde(rename = "prompt_tokens_details")]
    details: Option<Details>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Details {
    #[serde(rename = "cached_tokens")]
    cached: Option<usize>,
}

impl Choice {
    fn has_text(&self) -> bool {
        let delta = self.delta.as_ref();
        let texts = [
            self.text.as_ref(),
            delta.and_then(|delta| delta.content.as_ref()),
            delta.and_then(|delta| delta.reasoning_content.as_ref()),
            delta.and_then(|delta| delta.reasoning.as_ref()),
        ];
        texts.into_iter().flatten().any(|text| !text.is_empty())
    }
}

impl Answer {
    fn count(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.input = usage.prompt.or(usage.total).or(self.input);
            self.output = usage.completion.or(self.output);
            let cached = usage.details.and_then(|details| details.cached);
            self.cached = cached.or(self.cached);
        }
    }

    /// A whole reply that ended at `end`: of it only the counts matter.
    pub(super) fn of_body(body: &[u8], end: Duration) -> Result<Self, Fault> {
        // A list of results without counts is a reply too.
        let text = std::str::from_utf8(body);
        let text = text
            .map_err(|error| malformed("the reply", error))?
            .trim_start();
        let mut answer = Self {
            end,
            ..Self::default()
        };
        if text.starts_with('{') {
            let body: Body =
                serde_json::from_str(text).map_err(|error| malformed("the reply", error))?;
            answer.count(body.usage);
        } else {
            serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map_err(|error| malformed("the reply", error))?;
        }
        Ok(answer)
    }
}

fn malformed(what: &str, error: impl fmt::Display) -> Fault {
    Fault::new(FaultKind::Malformed, format!("{what}: {error}"))
}

/// The message of an error reply: the envelope's, or the text as it is.
pub(super) fn message(body: &[u8]) -> String {
    let envelope = |value: &Value| {
        let error = value.get("error").unwrap_or(value);
        let text = error.get("message").or(Some(error))?.as_str()?;
        Some(text.to_owned())
    };
    let read: Option<Value> = serde_json::from_slice(body).ok();
    let text = read.as_ref().and_then(envelope);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    text.chars().take(500).collect()
}

/// A stream that is being read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    answer: Answer,
    /// A choice has ended.
    finished: bool,
    /// `[DONE]` came.
    done: bool,
    fault: Option<Fault>,
}

impl Reading {
    /// Takes the data of an event that came at `at`.
    pub(super) fn event(&mut self, data: &[u8], at: Duration) {
        if self.done || self.fault.is_some() {
            return;
        }
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        match serde_json::from_slice::<Body>(data) {
            Err(error) => self.fault = Some(malformed("an event", error)),
            Ok(Body {
                error: Some(error), ..
            }) => {
                let text = message(error.to_string().as_bytes());
                self.fault = Some(Fault::new(FaultKind::InStream, text));
            }
            Ok(body) => {
                let choices = body.choices.unwrap_or_default();
                if choices.iter().any(Choice::has_text) {
                    self.answer.texts.push(at);
                }
                self.finished |= choices.iter().any(|c| c.finish_reason.is_some());
                self.answer.count(body.usage);
            }
        }
    }

    /// Whether nothing that may follow matters.
    pub(super) fn is_over(&self) -> bool {
        self.done || self.fault.is_some()
    }

    /// The stream ended at `end`.
    pub(super) fn end(self, end: Duration) -> Result<Answer, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !self.done && !self.finished {
            let message = "the stream ended before its answer did";
            return Err(Fault::new(FaultKind::Disconnected, message));
        }
        let mut answer = self.answer;
        answer.end = end;
        if answer.texts.is_empty() {
            // Tokens without text, such as a lone end: they came by the end.
            answer.texts.push(end);
        }
        Ok(answer)
    }
}
