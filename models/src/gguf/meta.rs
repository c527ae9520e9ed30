//! [`GgufMeta`]: keys and values, with typed access whose errors name the key.

use super::reader::{MAX_KEY, Reader};
use crate::LoadError;
use crate::error;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Keys of a file at most.
const MAX_KEYS: usize = 1 << 16;
/// Elements of all arrays of a file together at most: several times a large vocabulary with its merges. Bounds what small
/// elements (one byte in the file, eight in memory) can cost.
const MAX_ELEMENTS: usize = 1 << 23;
/// Elements that memory is asked for before they are read.
const AHEAD: usize = 1 << 12;
/// Arrays in arrays at most.
const MAX_DEPTH: usize = 4;
/// The least bytes of a key with its value: key length, type, one byte.
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;

/// A value. Numbers are widened: what type a writer chose does not matter to a reader that checks the range.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer.
    Int(i128),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Str(String),
    /// Integers of any width.
    Ints(Vec<i64>),
    /// f32 or f64 numbers, as f32.
    Floats(Vec<f32>),
    /// Truth values.
    Bools(Vec<bool>),
    /// Texts.
    Strs(Vec<String>),
    /// Arrays of arrays.
    Arrays(Vec<Value>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::Str(_) => "a string",
            Self::Ints(_) => "an array of integers",
            Self::Floats(_) => "an array of numbers",
            Self::Bools(_) => "an array of booleans",
            Self::Strs(_) => "an array of strings",
            Self::Arrays(_) => "an array of arrays",
        }
    }
}

/// A Rust type that a [`Value`] can be read as: `&str`, `u32`, `usize`, `bool`, `f32`, `&[String]`, `&[i64]`, `&[f32]`.
pub trait FromValue<'a>: Sized {
    /// What is expected, for messages.
    const EXPECTED: &'static str;

    /// The value, if it is of the type and in its range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_value {
    ($type:ty, $expected:literal, $pattern:pat => $result:expr) => {
        impl<'a> FromValue<'a> for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &'a Value) -> Option<Self> {
                match value {
                    $pattern => $result,
                    _ => None,
                }
            }
        }
    };
}

from_value!(&'a str, "a string", Value::Str(s) => Some(s));
from_value!(u32, "an integer from 0 to 2^32 - 1", Value::Int(i) => u32::try_from(*i).ok());
from_value!(usize, "an integer from 0", Value::Int(i) => usize::try_from(*i).ok());
from_value!(bool, "a boolean", Value::Bool(b) => Some(*b));
from_value!(f32, "a finite number", Value::Float(f) => Some(*f as f32).filter(|f| f.is_finite()));
from_value!(&'a [String], "an array of strings", Value::Strs(v) => Some(v));
from_value!(&'a [i64], "an array of integers", Value::Ints(v) => Some(v));
from_value!(&'a [f32], "an array of numbers", Value::Floats(v) => Some(v));

/// The keys and values of one file.
#[derive(Debug)]
pub struct GgufMeta {
    path: PathBuf,
    values: HashMap<String, Value>,
}

impl GgufMeta {
    /// Metadata of `path` with these pairs.
    pub fn new(path: &Path, values: HashMap<String, Value>) -> Self {
        Self {
            path: path.to_owned(),
            values,
        }
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// [`LoadError::Config`] if it is missing, of another type or out of range.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, LoadError> {
        self.find(key)?
            .ok_or_else(|| self.error(key, format!("is missing (expected {})", T::EXPECTED)))
    }

    /// The value of a key that may be absent.
    ///
    /// # Errors
    /// [`LoadError::Config`] if it is there, but of another type or out of range.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, LoadError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.error(
                key,
                match value {
                    Value::Int(i) => format!("expected {}, got {i}", T::EXPECTED),
                    Value::Float(f) => format!("expected {}, got {f}", T::EXPECTED),
                    other => format!("expected {}, got {}", T::EXPECTED, other.kind()),
                },
            )),
        }
    }

    /// The value of `key`, whatever its type.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> LoadError {
        LoadError::Config {
            path: self.path.clone(),
            field: error::shortened(key.to_owned()),
            reason: error::shortened(reason.into()),
        }
    }

    /// Reads the number of pairs, then the pairs.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        let count = reader.u64("number of keys")?;
        let count = reader.fits(count, MIN_PAIR_BYTES, "number of keys")?;
        if count > MAX_KEYS {
            return Err(reader.error(format!(
                "the number of keys is {count}, more than {MAX_KEYS}"
            )));
        }
        let mut values = HashMap::new();
        let mut elements = 0;
        for i in 0..count {
            let key = reader.string(&format!("key {i}"))?.to_owned();
            if key.is_empty() || key.len() > MAX_KEY {
                return Err(reader.error(format!("key {i} is {} bytes long", key.len())));
            }
            let kind = reader.u32(&key)?;
            let value = if kind == ARRAY {
                read_array(reader, &key, 1, &mut elements)?
            } else {
                read_scalar(reader, &key, kind)?
            };
            if values.insert(key.clone(), value).is_some() {
                return Err(reader.error(format!("key `{key}` is there twice")));
            }
        }
        Ok(Self::new(reader.path(), values))
    }
}

const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of type `kind` at least.
fn least_bytes(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | BOOL => 1,
        2 | 3 => 2,
        4..=6 => 4,
        STRING | 10..=12 => 8,
        ARRAY => 12,
        _ => return None,
    })
}

fn read_scalar(reader: &mut Reader<'_>, key: &str, kind: u32) -> Result<Value, LoadError> {
    Ok(match kind {
        6 => Value::Float(f64::from(f32::from_bits(reader.u32(key)?))),
        12 => Value::Float(f64::from_bits(reader.u64(key)?)),
        BOOL => Value::Bool(read_bool(reader, key)?),
        STRING => Value::Str(reader.string(key)?.to_owned()),
        10 => Value::Int(reader.u64(key)?.into()),
        0..=5 | 11 => Value::Int(read_int(reader, key, kind)?.into()),
        _ => return Err(unknown_type(reader, key, kind)),
    })
}

fn read_bool(reader: &mut Reader<'_>, key: &str) -> Result<bool, LoadError> {
    match reader.u8(key)? {
        0 => Ok(false),
        1 => Ok(true),
        b => Err(reader.error(format!("`{key}`: {b} is not a boolean"))),
    }
}

fn read_int(reader: &mut Reader<'_>, key: &str, kind: u32) -> Result<i64, LoadError> {
    Ok(match kind {
        0 => reader.u8(key)?.into(),
        1 => (reader.u8(key)? as i8).into(),
        2 => reader.u16(key)?.into(),
        3 => (reader.u16(key)? as i16).into(),
        4 => reader.u32(key)?.into(),
        5 => (reader.u32(key)? as i32).into(),
        10 => i64::try_from(reader.u64(key)?)
            .map_err(|_| reader.error(format!("`{key}`: an integer of 2^63 or more")))?,
        11 => reader.u64(key)? as i64,
        _ => return Err(unknown_type(reader, key, kind)),
    })
}

fn unknown_type(reader: &Reader<'_>, key: &str, kind: u32) -> LoadError {
    reader.error(format!("`{key}`: {kind} is not a type of value"))
}

fn read_array(
    reader: &mut Reader<'_>,
    key: &str,
    depth: usize,
    elements: &mut usize,
) -> Result<Value, LoadError> {
    if depth > MAX_DEPTH {
        return Err(reader.error(format!("`{key}`: arrays nested deeper than {MAX_DEPTH}")));
    }
    let kind = reader.u32(key)?;
    let least = least_bytes(kind).ok_or_else(|| unknown_type(reader, key, kind))?;
    let count = reader.u64(key)?;
    let count = reader.fits(count, least, key)?;
    *elements += count;
    if *elements > MAX_ELEMENTS {
        return Err(reader.error(format!(
            "`{key}`: more than {MAX_ELEMENTS} array elements in the file"
        )));
    }
    Ok(match kind {
        6 => Value::Floats(collect(count, || reader.u32(key).map(f32::from_bits))?),
        12 => Value::Floats(collect(count, || {
            reader.u64(key).map(|bits| f64::from_bits(bits) as f32)
        })?),
        BOOL => Value::Bools(collect(count, || read_bool(reader, key))?),
        STRING => Value::Strs(collect(count, || reader.string(key).map(str::to_owned))?),
        ARRAY => Value::Arrays(collect(count, || {
            read_array(reader, key, depth + 1, elements)
        })?),
        _ => Value::Ints(collect(count, || read_int(reader, key, kind))?),
    })
}

fn collect<T>(
    count: usize,
    mut read: impl FnMut() -> Result<T, LoadError>,
) -> Result<Vec<T>, LoadError> {
    let mut values = Vec::with_capacity(count.min(AHEAD));
    for _ in 0..count {
        values.push(read()?);
    }
    Ok(values)
}
