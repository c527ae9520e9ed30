//! [`Tensors`]: the weights of a checkpoint by name as plain f32 values, a piece at a time.

use super::{Entry, Stored, Weights};
use crate::LoadError;
use koma_kernels::Format;
use std::path::Path;

/// Values of a piece at most.
const PIECE: usize = 1 << 18;

/// The weights of an opened checkpoint, for who does not compute with this crate's kernels. Nothing is held in memory: values
/// are read when they are asked for.
pub struct Tensors(pub(crate) Weights);

impl Tensors {
    /// The checkpoint's own name for the tensor that the architecture calls `name`.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`].
    pub fn own_name(&self, name: &str) -> Result<&str, LoadError> {
        Ok(self.0.find(name)?.0)
    }

    /// The values of the tensor `name` (the architecture's name or the checkpoint's own), outermost dimension first, in f32:
    /// exact, but for files with 8 bytes a value.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], or [`LoadError::Tensor`] for another shape, or values that are no plain numbers.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Pieces<'_>, LoadError> {
        let own = self.0.entries.get_key_value(name);
        let name = own.map_or_else(|| self.own_name(name), |(name, _)| Ok(name.as_str()))?;
        let entry = &self.0.entries[name];
        if entry.shape != shape {
            let reason = format!("has shape {:?}, expected {shape:?}", entry.shape);
            return Err(self.0.tensor_error(name, reason));
        }
        let each = match entry.stored {
            Stored::F64 => 8,
            Stored::As(Format::F32) => 4,
            Stored::As(Format::F16 | Format::Bf16) => 2,
            _ => return Err(self.0.not_a_weight(name, &entry.stored)),
        };
        Ok(Pieces {
            weights: &self.0,
            name,
            entry,
            each,
            at: entry.range.start,
        })
    }

    /// The files of weights.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.files.paths()
    }
}

/// The values of a tensor, some at a time, in order.
pub struct Pieces<'a> {
    weights: &'a Weights,
    name: &'a str,
    entry: &'a Entry,
    /// Bytes of a value in the file.
    each: usize,
    /// Where the next piece begins in the file.
    at: usize,
}

impl Iterator for Pieces<'_> {
    type Item = Result<Vec<f32>, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.entry.range.end.min(self.at + PIECE * self.each);
        if self.at >= end {
            return None;
        }
        let (range, count) = (self.at..end, (end - self.at) / self.each);
        self.at = end;
        let bytes = self.weights.files.map(self.entry.file, range);
        let values = bytes.and_then(|bytes| {
            let stored = &self.entry.stored;
            self.weights.values(self.name, stored, &bytes, &[count])
        });
        Some(values)
    }
}
