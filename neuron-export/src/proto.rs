//! Protocol buffers' wire format: [`Message`] writes it, [`Reader`] reads it. By the public description of the encoding; no
//! schema compiler.
//!
//! Must not know: any schema. Invariant: the values of tensors are never in a message. They are named in it, with their length, and
//! go from the checkpoint to the file while the message is written.

mod read;
#[cfg(test)]
mod tests;

use crate::graph::Type;
pub use read::{Content, Field, Reader};
use std::io::{self, Write};

/// Longest message that other readers take (their lengths are signed 32 bit).
pub const MAX_BYTES: u64 = i32::MAX as u64;

/// The values of a weight, where they go into a message: little-endian, outermost dimension first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// Name of the weight.
    pub name: String,
    /// Type they are written with, f32 or bf16, of fixed dimensions.
    pub ty: Type,
}

impl Values {
    /// Bytes that they take.
    pub fn bytes(&self) -> u64 {
        let values: usize = self.ty.fixed().iter().product();
        values as u64 * self.ty.elem.bytes() as u64
    }
}

enum Part {
    Bytes(Vec<u8>),
    Values(Values),
}

/// A message under construction. Fields are written in the order of the calls; numbers that are 0, empty texts and empty lists
/// are left out, which is how the format says them.
#[derive(Default)]
pub struct Message {
    parts: Vec<Part>,
    len: u64,
}

impl Message {
    /// Length in bytes, values included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Bytes(bytes.to_vec())),
        }
    }

    fn varint(&mut self, number: u64) {
        let (buffer, len) = varint(number);
        self.push(&buffer[..len]);
    }

    fn key(&mut self, field: u32, wire: u64) {
        self.varint(u64::from(field) << 3 | wire);
    }

    /// A whole number or truth value.
    pub fn int(&mut self, field: u32, number: i64) -> &mut Self {
        if number != 0 {
            self.key(field, 0);
            // Negative numbers take ten bytes, as 64 bit two's complement.
            self.varint(number as u64);
        }
        self
    }

    /// A `float`, even if it is 0.
    pub fn float(&mut self, field: u32, number: f32) -> &mut Self {
        self.key(field, 5);
        self.push(&number.to_le_bytes());
        self
    }

    /// Bytes, even if there are none.
    pub fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.push(bytes);
        self
    }

    /// A text.
    pub fn text(&mut self, field: u32, text: &str) -> &mut Self {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
        self
    }

    /// A list of whole numbers, packed.
    pub fn ints(&mut self, field: u32, numbers: impl IntoIterator<Item = i64>) -> &mut Self {
        let mut packed = Self::default();
        for number in numbers {
            packed.varint(number as u64);
        }
        if !packed.is_empty() {
            self.message(field, packed);
        }
        self
    }

    /// A message inside of this one, even if it is empty.
    pub fn message(&mut self, field: u32, inner: Self) -> &mut Self {
        self.key(field, 2);
        self.varint(inner.len);
        self.append(inner)
    }

    /// The fields of another message behind those of this one.
    pub fn append(&mut self, other: Self) -> &mut Self {
        for part in other.parts {
            match part {
                Part::Bytes(bytes) => self.push(&bytes),
                Part::Values(values) => self.push_values(values),
            }
        }
        self
    }

    /// Bytes that are the values of a weight.
    pub fn values(&mut self, field: u32, values: Values) -> &mut Self {
        self.key(field, 2);
        self.varint(values.bytes());
        self.push_values(values);
        self
    }

    fn push_values(&mut self, values: Values) {
        self.len += values.bytes();
        self.parts.push(Part::Values(values));
    }

    /// Writes the message; `values` writes those of a weight, as many bytes as [`Values::bytes`] says.
    ///
    /// # Errors
    /// What writing or `values` says.
    pub fn write<E: From<io::Error>>(
        &self,
        out: &mut dyn Write,
        values: &mut dyn FnMut(&Values, &mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => out.write_all(bytes)?,
                Part::Values(weight) => values(weight, out)?,
            }
        }
        Ok(())
    }
}

/// A number in groups of seven bits, the lowest first, and how many bytes that takes.
fn varint(mut number: u64) -> ([u8; 10], usize) {
    let (mut bytes, mut len) = ([0; 10], 0);
    loop {
        bytes[len] = (number & 0x7f) as u8;
        number >>= 7;
        len += 1;
        if number == 0 {
            return (bytes, len);
        }
        bytes[len - 1] |= 0x80;
    }
}
