//! [`Fields`]: the fields of one object, taken one by one, so that every error names its field and nothing is overlooked.
//!
//! Owns: `null` means absent, other spellings. Must not know: what a field is for.

use super::raw::{Kind, Raw};
use crate::ApiError;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// Most fields of one object; real requests have some dozens.
const MAX_FIELDS: usize = 512;

/// The fields of one object, taken one by one. `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: String,
    entries: Vec<(String, &'a RawValue)>,
    /// Fields that the client spelled differently: our name, their path.
    renamed: Vec<(String, String)>,
}

impl<'a> Fields<'a> {
    /// The fields of the object `json`, which stands at `path`.
    pub(super) fn of(path: &str, json: &'a RawValue) -> Result<Self, ApiError> {
        let entries = serde_json::from_str::<Entries<'a>>(json.get());
        let entries = entries.map_err(|e| ApiError::field(path, e))?.0;
        Ok(Self {
            path: path.to_owned(),
            entries,
            renamed: Vec::new(),
        })
    }

    /// The fields of a request's body.
    pub(crate) fn body(bytes: &'a [u8]) -> Result<Self, ApiError> {
        let json: &RawValue = serde_json::from_slice(bytes)
            .map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))?;
        let body = Raw::new(String::new(), json);
        if body.kind() != Kind::Object {
            return Err(ApiError::bad_request("the body must be a JSON object"));
        }
        body.object().map_err(|e| ApiError::bad_request(e.message))
    }

    /// Takes the field `name`, if it is there and not null. Of several with one name the last counts.
    pub(crate) fn take(&mut self, name: &str) -> Option<Raw<'a>> {
        let raw = self.peek(name);
        self.entries.retain(|(key, _)| key != name);
        raw
    }

    /// The field `name`, if it is there and not null; it stays.
    pub(crate) fn peek(&self, name: &str) -> Option<Raw<'a>> {
        let mut same = self.entries.iter().rev().filter(|(key, _)| key == name);
        let json = same.next()?.1;
        let path = self.path_of(name);
        Some(Raw::new(path, json)).filter(|raw| raw.kind() != Kind::Null)
    }

    /// Takes the field `name`, which must be there.
    pub(crate) fn required(&mut self, name: &str) -> Result<Raw<'a>, ApiError> {
        self.take(name)
            .ok_or_else(|| self.error(name, "is required"))
    }

    /// All fields with their names, in order.
    pub(crate) fn entries(self) -> impl Iterator<Item = (String, Raw<'a>)> {
        let path = self.path;
        let entries = self.entries.into_iter();
        entries.map(move |(name, json)| {
            let raw = Raw::new(format!("{path}.{name}"), json);
            (name, raw)
        })
    }

    /// Whether the field is there and not null; it stays.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.peek(name).is_some()
    }

    /// An error in the field `name` of this object.
    pub(crate) fn error(&self, name: &str, message: impl fmt::Display) -> ApiError {
        ApiError::field(self.path_of(name), message)
    }

    /// Reads the field `old` as `new` from now on, where there is no `new`; errors keep the client's spelling.
    pub(crate) fn rename(&mut self, old: &str, new: &str) {
        if self.has(new) || !self.has(old) {
            return;
        }
        let path = self.path_of(old);
        self.entries.retain(|(key, _)| key != new);
        let entries = self.entries.iter_mut().filter(|(key, _)| key == old);
        entries.for_each(|(key, _)| new.clone_into(key));
        self.renamed.push((new.to_owned(), path));
    }

    /// Reads the fields of the object `name` as if they stood beside it; errors keep the client's spelling.
    pub(crate) fn flatten(&mut self, name: &str) -> Result<(), ApiError> {
        let Some(raw) = self.take(name) else {
            return Ok(());
        };
        for (key, json) in raw.object()?.entries {
            let path = format!("{}.{key}", raw.path());
            if self.has(&key) {
                return Err(ApiError::field(path, "is given twice"));
            }
            self.renamed.push((key.clone(), path));
            self.entries.push((key, json));
        }
        Ok(())
    }

    /// Where the field `name` stands in the body, as the client spells it.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if let Some((_, path)) = self.renamed.iter().rev().find(|(new, _)| new == name) {
            return path.clone();
        }
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// A text field.
    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.take(name).map(|raw| raw.string()).transpose()
    }

    /// A truth value.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.take(name).map(|raw| raw.boolean()).transpose()
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        self.take(name).map(|raw| raw.integer()).transpose()
    }

    /// A number.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        self.take(name).map(|raw| raw.number()).transpose()
    }

    /// An object of any content.
    pub(crate) fn map(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        self.take(name).map(|raw| raw.map()).transpose()
    }

    /// A whole number from `low` to `high`.
    pub(crate) fn in_range(
        &mut self,
        name: &str,
        low: i64,
        high: i64,
    ) -> Result<Option<i64>, ApiError> {
        let Some(raw) = self.take(name) else {
            return Ok(None);
        };
        let value = raw.integer()?;
        if (low..=high).contains(&value) {
            return Ok(Some(value));
        }
        Err(raw.error(format!("must be from {low} to {high}")))
    }

    /// Ends the reading: names (never values) of the fields that nobody asked for go to the debug log.
    pub(crate) fn finish(self) {
        if !self.entries.is_empty() {
            let short = |(name, _): &(String, _)| name.chars().take(64).collect();
            let names: Vec<String> = self.entries.iter().take(32).map(short).collect();
            tracing::debug!(fields = ?names, "unknown fields are ignored");
        }
    }
}

/// Entries of an object, in order, not more than [`MAX_FIELDS`].
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MAX_FIELDS {
                        let message = format!("an object must have at most {MAX_FIELDS} fields");
                        return Err(serde::de::Error::custom(message));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
