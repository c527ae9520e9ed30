//! [`Raw`]: one JSON value, read as the type that is asked for, with errors that know its place.
//!
//! Owns: types, lengths of lists; whole numbers are whole. Must not know: what a value is for. Invariant: the body stays text
//! until a value is asked for, so a hostile body costs no more memory than its own size and the limits that the caller
//! names.

use super::Fields;
use crate::ApiError;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

const NOT_AN_ID: &str = "must be a token id: an integer from 0";

/// One JSON value with its dotted path in the body.
#[derive(Debug, Clone)]
pub(crate) struct Raw<'a> {
    path: String,
    json: &'a RawValue,
}

/// What kind of JSON a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl<'a> Raw<'a> {
    pub(super) fn new(path: String, json: &'a RawValue) -> Self {
        Self { path, json }
    }

    /// Where it stands in the body, as errors name it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Its kind, from its first character.
    pub(crate) fn kind(&self) -> Kind {
        kind_of(self.json.get())
    }

    /// An error at this place.
    pub(crate) fn error(&self, message: impl fmt::Display) -> ApiError {
        ApiError::field(self.path.clone(), message)
    }

    /// An object of any content.
    pub(crate) fn map(&self) -> Result<Map<String, Value>, ApiError> {
        self.typed(Kind::Object, "must be an object")
    }

    /// The text.
    pub(crate) fn string(&self) -> Result<String, ApiError> {
        self.typed(Kind::String, "must be a string")
    }

    /// The truth value.
    pub(crate) fn boolean(&self) -> Result<bool, ApiError> {
        self.typed(Kind::Boolean, "must be true or false")
    }

    /// The whole number. `1.0` is not one.
    pub(crate) fn integer(&self) -> Result<i64, ApiError> {
        self.typed(Kind::Number, "must be an integer of 64 bits")
    }

    /// The number, which is finite.
    pub(crate) fn number(&self) -> Result<f64, ApiError> {
        self.typed(
            Kind::Number,
            "must be a number in the range of 64-bit floats",
        )
    }

    /// The entries of an array of at most `limit`.
    pub(crate) fn list(&self, limit: usize) -> Result<Vec<Raw<'a>>, ApiError> {
        self.expect(Kind::Array, "must be a list")?;
        let entries = bounded(self.json, limit).map_err(|_| self.too_many(limit))?;
        let path = |i| format!("{}.{i}", self.path);
        let entry = |(i, json)| Raw {
            path: path(i),
            json,
        };
        Ok(entries.into_iter().enumerate().map(entry).collect())
    }

    /// The token ids of an array. The body's size bounds them; the model's window is checked later.
    pub(crate) fn ids(&self) -> Result<Vec<u32>, ApiError> {
        self.expect(Kind::Array, "must be a list of token ids")?;
        match id_list(self.json) {
            Ok(Ok(ids)) => Ok(ids),
            Ok(Err(at)) => {
                let path = format!("{}.{at}", self.path);
                Err(ApiError::field(path, NOT_AN_ID))
            }
            Err(_) => Err(self.error("must be a list of token ids")),
        }
    }

    /// The fields of an object.
    pub(crate) fn object(&self) -> Result<Fields<'a>, ApiError> {
        self.expect(Kind::Object, "must be an object")?;
        Fields::of(&self.path, self.json)
    }

    /// The kind of a list's first entry; none if it is no list or has no entries.
    pub(crate) fn first_kind(&self) -> Option<Kind> {
        let inner = self.json.get().strip_prefix('[')?.trim_ascii_start();
        (!inner.starts_with(']')).then(|| kind_of(inner))
    }

    /// Whether it is an empty list, object or string.
    pub(crate) fn is_empty(&self) -> bool {
        let text = self.json.get();
        match self.kind() {
            Kind::String => text == "\"\"",
            Kind::Array | Kind::Object => {
                text.len() >= 2 && text[1..text.len() - 1].trim_ascii().is_empty()
            }
            Kind::Null | Kind::Boolean | Kind::Number => false,
        }
    }

    fn expect(&self, kind: Kind, message: &str) -> Result<(), ApiError> {
        if self.kind() == kind {
            return Ok(());
        }
        Err(self.error(message))
    }

    fn typed<T: Deserialize<'a>>(&self, kind: Kind, message: &str) -> Result<T, ApiError> {
        self.expect(kind, message)?;
        serde_json::from_str(self.json.get()).map_err(|_| self.error(message))
    }

    fn too_many(&self, limit: usize) -> ApiError {
        self.error(format!("must have at most {limit} entries"))
    }
}

/// The kind of valid JSON shows in its first character.
fn kind_of(json: &str) -> Kind {
    match json.as_bytes().first() {
        Some(b'n') => Kind::Null,
        Some(b't' | b'f') => Kind::Boolean,
        Some(b'"') => Kind::String,
        Some(b'[') => Kind::Array,
        Some(b'{') => Kind::Object,
        _ => Kind::Number,
    }
}

/// Entries of an array, not more than `limit`.
fn bounded(json: &RawValue, limit: usize) -> Result<Vec<&RawValue>, serde_json::Error> {
    struct Bounded(usize);
    impl<'a> Visitor<'a> for Bounded {
        type Value = Vec<&'a RawValue>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {} entries", self.0)
        }
        fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = seq.next_element()? {
                if entries.len() == self.0 {
                    return Err(serde::de::Error::custom("too many entries"));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(json.get());
    reader.deserialize_seq(Bounded(limit))
}

/// Token ids of an array, or the place of the first entry that is none.
fn id_list(json: &RawValue) -> Result<Result<Vec<u32>, usize>, serde_json::Error> {
    struct Ids;
    impl<'a> Visitor<'a> for Ids {
        type Value = Result<Vec<u32>, usize>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of token ids")
        }
        fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut ids = Vec::new();
            while let Some(entry) = seq.next_element::<&RawValue>()? {
                let Ok(id) = entry.get().parse() else {
                    while seq.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Err(ids.len()));
                };
                ids.push(id);
            }
            Ok(Ok(ids))
        }
    }
    let mut reader = serde_json::Deserializer::from_str(json.get());
    reader.deserialize_seq(Ids)
}
