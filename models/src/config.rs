//! JSON files of a model folder, read field by field so that an error names the file and the field.
//!
//! Owns: [`Json`] and what several architectures read the same way ([`rope`], [`chat`], [`head`], [`modules`]). Must not know:
//! an architecture's own fields.
//!
//! Invariant: a field is read with its type and range or is an error; a field that changes what is computed and cannot
//! be honoured is an error too.

pub(crate) mod chat;
pub(crate) mod head;
pub(crate) mod modules;
pub(crate) mod rope;

use crate::LoadError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Largest JSON file that is read, except tokenizers: an index of a very large checkpoint has a few megabytes.
const MAX_BYTES: u64 = 64 << 20;

/// An object in a JSON file.
#[derive(Debug, Clone)]
pub(crate) struct Json {
    path: PathBuf,
    /// Path of this object in the file, with a trailing point; empty for the file itself.
    prefix: String,
    map: Map<String, Value>,
}

impl Json {
    /// Reads a file that must hold an object.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        match Self::read_value(path)? {
            Value::Object(map) => Ok(Self::new(path, map)),
            _ => Err(file_error(path, "does not hold a JSON object".to_owned())),
        }
    }

    /// Reads a file if it is there.
    pub(crate) fn read_if_there(path: &Path) -> Result<Option<Self>, LoadError> {
        path.is_file().then(|| Self::read(path)).transpose()
    }

    /// Reads a file of any JSON value.
    pub(crate) fn read_value(path: &Path) -> Result<Value, LoadError> {
        let text = read_text(path)?;
        serde_json::from_str(&text).map_err(|e| file_error(path, format!("not JSON: {e}")))
    }

    /// The object `map` of the file `path`.
    pub(crate) fn new(path: &Path, map: Map<String, Value>) -> Self {
        Self {
            path: path.to_owned(),
            prefix: String::new(),
            map,
        }
    }

    /// An error about `field` of this object.
    pub(crate) fn error(&self, field: &str, reason: impl Into<String>) -> LoadError {
        LoadError::Config {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
            reason: reason.into(),
        }
    }

    /// Whether it has no fields.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The names of all fields.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The raw value; absent and null are the same.
    pub(crate) fn value(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// Whether the field is there and null, which is not always what its absence means.
    pub(crate) fn is_null(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_null)
    }

    /// Fails if there is a field other than `known`.
    pub(crate) fn only_fields(&self, known: &[&str]) -> Result<(), LoadError> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => {
                let reason = format!("is not known here; known are {}", known.join(", "));
                Err(self.error(key, reason))
            }
            None => Ok(()),
        }
    }

    /// This object with `defaults` where it has no such field.
    pub(crate) fn with_defaults(mut self, defaults: &[(&str, usize)]) -> Self {
        for (field, value) in defaults {
            let there = self.map.entry(*field);
            there.or_insert_with(|| Value::from(*value));
        }
        self
    }

    fn find<'a, T>(
        &'a self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let wrong = || self.error(field, format!("expected {expected}, got {}", short(value)));
        read(value).ok_or_else(wrong).map(Some)
    }

    fn require<T>(&self, field: &str, found: Option<T>) -> Result<T, LoadError> {
        found.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A whole number in `range`, if there.
    pub(crate) fn find_size(
        &self,
        field: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, LoadError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |v: &Value| {
            usize::try_from(v.as_u64()?)
                .ok()
                .filter(|n| range.contains(n))
        };
        self.find(field, &expected, read)
    }

    /// A whole number in `range`.
    pub(crate) fn size(
        &self,
        field: &str,
        range: RangeInclusive<usize>,
    ) -> Result<usize, LoadError> {
        let found = self.find_size(field, range)?;
        self.require(field, found)
    }

    /// A positive finite number, also as an f32, or `default`.
    pub(crate) fn positive_or(&self, field: &str, default: f64) -> Result<f64, LoadError> {
        let positive = |f: &f64| (*f as f32).is_finite() && *f as f32 > 0.0;
        let read = |v: &Value| v.as_f64().filter(positive);
        Ok(self
            .find(field, "a positive number", read)?
            .unwrap_or(default))
    }

    /// A positive finite number.
    pub(crate) fn positive(&self, field: &str) -> Result<f64, LoadError> {
        self.require(field, self.value(field))?;
        self.positive_or(field, 0.0)
    }

    /// A truth value, or `default`.
    pub(crate) fn bool_or(&self, field: &str, default: bool) -> Result<bool, LoadError> {
        let found = self.find(field, "true or false", Value::as_bool)?;
        Ok(found.unwrap_or(default))
    }

    /// A text, if there.
    pub(crate) fn find_str(&self, field: &str) -> Result<Option<&str>, LoadError> {
        self.find(field, "a string", Value::as_str)
    }

    /// A list, if there.
    pub(crate) fn find_array(&self, field: &str) -> Result<Option<&[Value]>, LoadError> {
        self.find(field, "a list", |v| v.as_array().map(Vec::as_slice))
    }

    /// A list of positive finite numbers.
    pub(crate) fn numbers(&self, field: &str) -> Result<Vec<f32>, LoadError> {
        let read = |v: &Value| {
            let positive = |v: &Value| {
                v.as_f64()
                    .map(|f| f as f32)
                    .filter(|f| f.is_finite() && *f > 0.0)
            };
            v.as_array()?.iter().map(positive).collect()
        };
        let found = self.find(field, "a list of positive numbers", read)?;
        self.require(field, found)
    }

    /// An object's pairs.
    pub(crate) fn object(&self, field: &str) -> Result<&Map<String, Value>, LoadError> {
        let found = self.find(field, "an object", Value::as_object)?;
        self.require(field, found)
    }

    /// An object inside of this one, if there.
    pub(crate) fn find_inner(&self, field: &str) -> Result<Option<Self>, LoadError> {
        let inner = self.find(field, "an object", Value::as_object)?;
        Ok(inner.map(|map| Self {
            path: self.path.clone(),
            prefix: format!("{}{field}.", self.prefix),
            map: map.clone(),
        }))
    }

    /// A whole number in `range` that divides `whole`, which is the value of the field `of`.
    pub(crate) fn divisor(
        &self,
        field: &str,
        range: RangeInclusive<usize>,
        (of, whole): (&str, usize),
    ) -> Result<usize, LoadError> {
        let parts = self.size(field, range)?;
        if whole.is_multiple_of(parts) {
            return Ok(parts);
        }
        Err(self.error(field, format!("{parts} does not divide {of} {whole}")))
    }

    /// Fails if a field has a value other than `only` (one that changes what is computed, and is not implemented).
    pub(crate) fn expect_only(&self, field: &str, only: &Value) -> Result<(), LoadError> {
        match self.value(field) {
            Some(value) if value != only => {
                let reason = format!("{} is not supported, only {only}", short(value));
                Err(self.error(field, reason))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a text file of bounded size.
pub(crate) fn read_text(path: &Path) -> Result<String, LoadError> {
    read_bounded(path, MAX_BYTES)
}

/// Reads a text file of `most` bytes at most.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<String, LoadError> {
    let io = |error| LoadError::Io {
        path: path.to_owned(),
        error,
    };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > most {
        let reason = format!("{size} bytes are more than the {most} that such a file may have");
        return Err(file_error(path, reason));
    }
    std::fs::read_to_string(path).map_err(io)
}

fn file_error(path: &Path, reason: String) -> LoadError {
    LoadError::File {
        path: path.to_owned(),
        reason,
    }
}

/// A value as it appears in a message.
fn short(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(60) {
                Some((cut, _)) => format!("{}...", &text[..cut]),
                None => text,
            }
        }
    }
}

#[cfg(test)]
mod tests;
