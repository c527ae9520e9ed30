//! Replies of chat and completions: the whole one and the chunks of a stream, from the same parts.

use super::UsageReply;
use serde::Serialize;
use std::collections::BTreeMap;

/// Which of the two routes speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

impl Api {
    /// The first part of a reply's id.
    pub(crate) fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Completion => "cmpl",
        }
    }

    fn object(self, chunk: bool) -> &'static str {
        match (self, chunk) {
            (Self::Chat, false) => "chat.completion",
            (Self::Chat, true) => "chat.completion.chunk",
            (Self::Completion, _) => "text_completion",
        }
    }
}

/// What all parts of one reply repeat.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) api: Api,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
}

/// A whole reply, or one chunk of a stream.
#[derive(Debug, Serialize)]
pub(crate) struct Reply<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "UsageField::is_absent")]
    usage: UsageField,
}

/// `usage` of a reply or of a chunk.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum UsageField {
    /// Not there: a chunk of a stream without usage.
    Absent,
    /// Null: a chunk before the one with the counts.
    Later,
    Counts(UsageReply),
}

impl UsageField {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl Envelope {
    /// The whole reply.
    pub(crate) fn whole<'a>(&'a self, choices: Vec<Choice<'a>>, usage: UsageReply) -> Reply<'a> {
        self.reply(false, choices, UsageField::Counts(usage))
    }

    /// A chunk with one choice. `usage`: whether the stream ends with a chunk of usage.
    pub(crate) fn chunk<'a>(&'a self, choice: Choice<'a>, usage: bool) -> Reply<'a> {
        let usage = if usage {
            UsageField::Later
        } else {
            UsageField::Absent
        };
        self.reply(true, vec![choice], usage)
    }

    /// The chunk with the counts, before `[DONE]`.
    pub(crate) fn usage_chunk(&self, usage: UsageReply) -> Reply<'_> {
        self.reply(true, Vec::new(), UsageField::Counts(usage))
    }

    fn reply<'a>(&'a self, chunk: bool, choices: Vec<Choice<'a>>, usage: UsageField) -> Reply<'a> {
        Reply {
            id: &self.id,
            object: self.api.object(chunk),
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
        }
    }
}

/// One continuation, or a part of it.
#[derive(Debug, Serialize)]
pub(crate) struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    body: ChoiceBody<'a>,
    logprobs: Option<Logprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    /// The stop id or stop string that ended it; null for an end id.
    pub(crate) stop_reason: Option<StopReasonReply>,
}

/// The text of a choice, as its route writes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum ChoiceBody<'a> {
    /// A whole chat message.
    Message(MessageBody<'a>),
    /// A part of a chat message.
    Delta(MessageBody<'a>),
    /// Text of a completion, whole or a part.
    Text(&'a str),
}

/// Parts of a message; what is none is left out.
#[derive(Debug, Default, Serialize)]
struct MessageBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

const ASSISTANT: Option<&str> = Some("assistant");

impl<'a> Choice<'a> {
    /// All of a choice.
    pub(crate) fn whole(api: Api, index: usize, text: &'a str, logprobs: Option<Logprobs>) -> Self {
        let body = match api {
            Api::Chat => ChoiceBody::Message(MessageBody {
                role: ASSISTANT,
                content: Some(text),
            }),
            Api::Completion => ChoiceBody::Text(text),
        };
        Self::new(index, body, logprobs)
    }

    /// The first part of a chat choice.
    pub(crate) fn opening(index: usize) -> Self {
        let body = MessageBody {
            role: ASSISTANT,
            content: Some(""),
        };
        Self::new(index, ChoiceBody::Delta(body), None)
    }

    /// Some text of a choice.
    pub(crate) fn part(api: Api, index: usize, text: &'a str, logprobs: Option<Logprobs>) -> Self {
        let body = match api {
            Api::Chat => ChoiceBody::Delta(MessageBody {
                role: None,
                content: Some(text),
            }),
            Api::Completion => ChoiceBody::Text(text),
        };
        Self::new(index, body, logprobs)
    }

    /// The last part of a choice, without text.
    pub(crate) fn last(api: Api, index: usize) -> Self {
        let body = match api {
            Api::Chat => ChoiceBody::Delta(MessageBody::default()),
            Api::Completion => ChoiceBody::Text(""),
        };
        Self::new(index, body, None)
    }

    fn new(index: usize, body: ChoiceBody<'a>, logprobs: Option<Logprobs>) -> Self {
        Self {
            index,
            body,
            logprobs,
            finish_reason: None,
            stop_reason: None,
        }
    }
}

/// What stopped a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReasonReply {
    Token(u32),
    Text(String),
}

/// One token with its log-probability, ready for either route's form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenReply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) logprob: f32,
    /// The most probable tokens, best first.
    pub(crate) top: Vec<(Vec<u8>, f32)>,
}

/// Log-probabilities of a choice or of a part of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Logprobs {
    Chat { content: Vec<ChatToken> },
    Completion(Columns),
}

/// One token in chat's form.
#[derive(Debug, Serialize)]
pub(crate) struct ChatToken {
    #[serde(flatten)]
    token: Candidate,
    top_logprobs: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct Candidate {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// Tokens in completions' form: one column each.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Columns {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Characters of the choice's text before each token.
    text_offset: Vec<usize>,
}

impl Logprobs {
    /// `offset`: characters of the choice's text before these tokens; moved behind them.
    pub(crate) fn new(api: Api, tokens: &[TokenReply], offset: &mut usize) -> Self {
        match api {
            Api::Chat => Self::Chat {
                content: tokens.iter().map(ChatToken::new).collect(),
            },
            Api::Completion => Self::Completion(Columns::new(tokens, offset)),
        }
    }
}

impl ChatToken {
    fn new(token: &TokenReply) -> Self {
        let top = token.top.iter();
        Self {
            token: Candidate::new(&token.bytes, token.logprob),
            top_logprobs: top.map(|(bytes, p)| Candidate::new(bytes, *p)).collect(),
        }
    }
}

impl Candidate {
    fn new(bytes: &[u8], logprob: f32) -> Self {
        Self {
            token: String::from_utf8_lossy(bytes).into_owned(),
            logprob,
            bytes: bytes.to_vec(),
        }
    }
}

impl Columns {
    fn new(tokens: &[TokenReply], offset: &mut usize) -> Self {
        let mut columns = Self::default();
        for token in tokens {
            columns.tokens.push(name(&token.bytes));
            columns.token_logprobs.push(token.logprob);
            let top = token.top.iter().map(|(bytes, p)| (name(bytes), *p));
            columns.top_logprobs.push(top.collect());
            columns.text_offset.push(*offset);
            // Every character of UTF-8 has exactly one byte that is not a continuation.
            *offset += token.bytes.iter().filter(|b| **b & 0xC0 != 0x80).count();
        }
        columns
    }
}

/// A token's text; where it is no text by itself, `bytes:\xe3\x81`, so that different tokens keep different names.
fn name(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut name = String::from("bytes:");
    for byte in bytes {
        let _ = write!(name, "\\x{byte:02x}");
    }
    name
}
