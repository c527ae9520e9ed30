//! [`ChatTemplate`]: messages to a prompt, by the model's own Jinja template.
//!
//! Owns: the dialect of transformers (`utils/chat_template_utils.py`: trimmed blocks, Python methods, `raise_exception`,
//! `strftime_now`, a `tojson` that escapes nothing for HTML) and what a render may cost. Must not know: tokenizers, HTTP.
//!
//! Invariant: a template is data from the model's file, never from a request: it reaches no file, no network and no code, and
//! a render ends with a text or an error once its fuel, its depth or its output is used up. Not covered, since minijinja
//! charges no fuel for them: lists joined to lists again and again, and values nested within each other by the 100,000.

use super::python;
use koma_models::ChatAssets;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};
use std::collections::BTreeMap;
use std::io;

/// Work of one render at most: instructions, and bytes made (64 for one unit).
const FUEL: u64 = 4_000_000;
/// Nesting of macros, includes and loops at most.
const RECURSION: usize = 100;
/// Bytes of one prompt at most.
const MAX_OUTPUT: usize = 16 << 20;
/// Bytes of a template at most; those of real models have less than 30 KB.
const MAX_SOURCE: usize = 1 << 20;
/// Variables that a caller's extra ones must not replace.
const RESERVED: [&str; 4] = [
    "messages",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
];
const NAME: &str = "chat_template";

/// Why there is no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The model has none.
    #[error("the model has no chat template; use /v1/completions")]
    Missing,
    /// It is not a template.
    #[error("the model's chat template does not compile: {0}")]
    Compile(String),
    /// The template refuses the messages (`raise_exception`).
    #[error("{0}")]
    Raised(String),
    /// An extra variable has the name of one that the server sets.
    #[error("chat_template_kwargs: `{0}` cannot be set")]
    Reserved(String),
    /// It failed on these messages, or went past its limits.
    #[error("the model's chat template fails on these messages: {0}")]
    Render(String),
}

/// What is rendered.
#[derive(Debug, Clone, Copy)]
pub struct RenderInput<'a> {
    /// Messages as the client gave them.
    pub messages: &'a [serde_json::Value],
    /// Whether the prompt ends with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Extra variables: `tools`, `documents`, `enable_thinking` and the like.
    pub kwargs: &'a serde_json::Map<String, serde_json::Value>,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template of a model.
    ///
    /// # Errors
    /// [`TemplateError::Missing`] or [`TemplateError::Compile`].
    pub fn of(assets: &ChatAssets) -> Result<Self, TemplateError> {
        let source = assets.template.as_deref().ok_or(TemplateError::Missing)?;
        Self::new(source, assets)
    }

    /// Compiles `source`; the begin and end tokens are those of `assets`.
    ///
    /// # Errors
    /// [`TemplateError::Compile`], with the line.
    pub fn new(source: &str, assets: &ChatAssets) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            let len = source.len();
            return Err(TemplateError::Compile(format!(
                "it has {len} bytes, more than {MAX_SOURCE}"
            )));
        }
        let compile = |e: Error| TemplateError::Compile(describe(&e));
        let mut env = environment().map_err(compile)?;
        env.add_template_owned(NAME, without_generation_tags(source))
            .map_err(compile)?;
        Ok(Self {
            env,
            bos_token: assets.bos_token.clone(),
            eos_token: assets.eos_token.clone(),
        })
    }

    /// The prompt. Encode it without adding special tokens: the template writes them.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] if the template refuses the messages, [`TemplateError::Render`] if it fails or costs too
    /// much, [`TemplateError::Reserved`].
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        let mut variables = BTreeMap::from([("tools", Value::from(()))]);
        for (name, value) in input.kwargs {
            if RESERVED.contains(&name.as_str()) {
                return Err(TemplateError::Reserved(name.clone()));
            }
            variables.insert(name, Value::from(Serde(value)));
        }
        variables.insert("messages", Value::from(Serde(input.messages)));
        variables.insert("add_generation_prompt", input.add_generation_prompt.into());
        variables.insert("bos_token", Value::from(&self.bos_token));
        variables.insert("eos_token", Value::from(&self.eos_token));

        let mut text = Capped::default();
        let rendered = self.env.get_template(NAME).and_then(|template| {
            template
                .render_captured_to(Value::from(variables), &mut text)
                .map(|_| ())
        });
        if text.full {
            return Err(TemplateError::Render(format!(
                "the prompt has more than {MAX_OUTPUT} bytes"
            )));
        }
        rendered.map_err(|e| match raised(&e) {
            Some(message) => TemplateError::Raised(message),
            None => TemplateError::Render(describe(&e)),
        })?;
        String::from_utf8(text.bytes).map_err(|e| TemplateError::Render(e.to_string()))
    }
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_unknown_method_callback(python::method);
    env.add_test("iterable", python::is_iterable);
    env.add_test("sequence", python::is_sequence);
    env.add_filter("tojson", python::to_json);
    env.add_function("raise_exception", raise);
    env.add_function("strftime_now", python::strftime_now);
    Ok(env)
}

/// The text that a template gave to `raise_exception`, carried as the source of an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

fn raised(error: &Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

/// What went wrong and in which line, without the template's text.
fn describe(error: &Error) -> String {
    let detail = error.detail().map_or(String::new(), |d| format!(": {d}"));
    let line = error
        .line()
        .map_or(String::new(), |l| format!(" (line {l})"));
    format!("{}{detail}{line}", error.kind())
}

/// `{% generation %}` marks what the assistant wrote, for training; here it is as good as `{% if true %}`, which leaves
/// the rules for white space around it as they are.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_matches(|c: char| c.is_whitespace() || "{%-+}".contains(c));
        match word {
            "generation" => text.push_str(&tag.replace(word, "if true")),
            "endgeneration" => text.push_str(&tag.replace(word, "endif")),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// A buffer that takes no more than [`MAX_OUTPUT`].
#[derive(Default)]
struct Capped {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
