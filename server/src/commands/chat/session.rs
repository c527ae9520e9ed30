//! [`Session`]: the messages of a conversation, and how a turn becomes a request.
//!
//! Must not know: terminals. Invariant: the messages are those of whole turns: a user's and the reply to it, by turns.

use koma_engine::text::{RenderInput, StopStrings, TemplateError, TextOptions, TextStream};
use koma_engine::{NewRequest, ParamError, SamplingOptions, SamplingParams, SubmitError, Task};
use koma_server::ServedModel;
use serde_json::{Map, Value, json};

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnError {
    #[error(
        "the conversation has {prompt} tokens and leaves no room for a reply in the model's window of {window}"
    )]
    WindowFull { prompt: usize, window: usize },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the message cannot be split into tokens: {0}")]
    Tokenizer(String),
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error(transparent)]
    Refused(#[from] SubmitError),
}

/// A conversation with one model.
pub(super) struct Session {
    model: ServedModel,
    system: Option<String>,
    /// Without the system prompt.
    messages: Vec<Value>,
    options: SamplingOptions,
}

impl Session {
    /// A new conversation; `model` has a chat template.
    pub(super) fn new(
        model: ServedModel,
        system: Option<String>,
        options: SamplingOptions,
    ) -> Self {
        Self {
            model,
            system,
            messages: Vec::new(),
            options,
        }
    }

    pub(super) fn reset(&mut self) {
        self.messages.clear();
    }

    pub(super) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// From the next turn on; an empty one is none.
    pub(super) fn set_system(&mut self, text: String) {
        self.system = (!text.is_empty()).then_some(text);
    }

    /// The most tokens of prompt and reply together.
    pub(super) fn window(&self) -> usize {
        self.model.handle.info().limits.max_len
    }

    /// The model in one line.
    pub(super) fn describe(&self) -> String {
        let identity = &self.model.handle.info().identity;
        format!(
            "{}: {} {}, {:.1} M parameters, a window of {} tokens.",
            identity.name,
            identity.architecture,
            identity.format,
            identity.parameters as f64 / 1e6,
            self.window()
        )
    }

    /// How full window and cache are, for people.
    pub(super) fn stats(&self) -> String {
        let stats = self.model.handle.stats();
        let turns = self.messages.len() / 2;
        let prompt = self.prompt(false).map_or(0, |ids| ids.len());
        format!(
            "{turns} turns, {prompt} of {} tokens; {} of {} cache blocks in use",
            self.window(),
            stats.blocks_used,
            stats.blocks_total
        )
    }

    /// Asks for the reply to `text`. [`Session::end`] must follow, with what came of it.
    ///
    /// # Errors
    /// Why the model is not asked; the conversation is then as before.
    pub(super) fn begin(&mut self, text: &str) -> Result<TextStream, TurnError> {
        self.messages.push(json!({"role": "user", "content": text}));
        let submitted = self.submit();
        if submitted.is_err() {
            self.messages.pop();
        }
        submitted
    }

    /// Ends a turn with its reply. Without any reply it is as if the turn had not been.
    pub(super) fn end(&mut self, reply: &str) {
        if reply.is_empty() {
            self.messages.pop();
        } else {
            let message = json!({"role": "assistant", "content": reply});
            self.messages.push(message);
        }
    }

    fn submit(&self) -> Result<TextStream, TurnError> {
        let handle = &self.model.handle;
        let info = handle.info();
        let prompt = self.prompt(true)?;
        let window = self.window();
        let room = match window.checked_sub(prompt.len()) {
            None | Some(0) => {
                let prompt = prompt.len();
                return Err(TurnError::WindowFull { prompt, window });
            }
            Some(room) => i64::try_from(room).unwrap_or(i64::MAX),
        };
        let asked = self.options.max_tokens.unwrap_or(room);
        let options = SamplingOptions {
            max_tokens: Some(asked.min(room)),
            ..self.options.clone()
        };
        let params = SamplingParams::new(&options, info.limits.vocab)?;
        let events = handle.submit(NewRequest {
            prompt: prompt.clone(),
            type_ids: Vec::new(),
            task: Task::Generate(params.clone()),
            priority: 0,
            queue_deadline: None,
            deadline: None,
            cache_salt: [0; 32],
        })?;
        let options = TextOptions {
            params: &params,
            prompt: &prompt,
            eos_ids: &info.chat.eos_ids,
            stops: &StopStrings::new(params.stop(), false),
        };
        Ok(TextStream::new(events, handle.tokenizer(), &options))
    }

    /// The ids of the conversation so far; `generation`: with the beginning of a reply.
    fn prompt(&self, generation: bool) -> Result<Vec<u32>, TurnError> {
        let system = self.system.iter();
        let mut messages: Vec<Value> = system
            .map(|text| json!({"role": "system", "content": text}))
            .collect();
        messages.extend_from_slice(&self.messages);
        let template = self.model.template.as_ref().ok_or(TemplateError::Missing)?;
        let text = template.render(&RenderInput {
            messages: &messages,
            add_generation_prompt: generation,
            kwargs: &Map::new(),
        })?;
        let encoded = self.model.handle.tokenizer().encode(&text, false);
        Ok(encoded.map_err(TurnError::Tokenizer)?.ids)
    }
}
