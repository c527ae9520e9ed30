//! The text layer over the engine: messages to prompts, tokens to text.
//!
//! Owns: chat templates, cutting of prompts, incremental detokenizing, stop strings, entities in tagged texts. Must not know: scheduling, HTTP. The
//! engine core below speaks ids only; all of this runs on the caller's threads.
//!
//! Invariant: the deltas of a stream, put together, are the text of all its ids at once, whatever the boundaries of tokens
//! cut through.

mod chat_template;
mod detokenizer;
mod entities;
mod python;
mod stop_strings;
mod stream;
#[cfg(test)]
mod testing;

pub use chat_template::{ChatTemplate, RenderInput, TemplateError};
pub use detokenizer::Detokenizer;
pub use entities::{Aggregation, Entity, Tagged, entities};
pub use stop_strings::StopStrings;
pub use stream::{TextEvent, TextOptions, TextStream, TokenText};
