//! Wire formats: what clients send, read once into valid types, and what they get, as types that serialise.
//!
//! Must not know: engines, HTTP heads. Invariant: a field is read, refused by name because it is known and not served
//! yet, or ignored because nobody knows it; never known and silently ignored.

mod admission;
pub(crate) mod chat;
pub(crate) mod classify;
pub(crate) mod completion;
pub(crate) mod embeddings;
mod fields;
pub(crate) mod generate;
pub(crate) mod inputs;
pub(crate) mod models;
mod raw;
pub(crate) mod reply;
pub(crate) mod rerank;
pub(crate) mod tokenize;
mod unserved;
mod usage;

pub(crate) use admission::{Admission, Cut, raw_scores};
pub(crate) use fields::Fields;
pub(crate) use raw::{Kind, Raw};
pub(crate) use usage::UsageReply;
