//! What a checkpoint's weights are, in short: a hash, a count, the prevailing format.

use super::{Entry, Weights};
use crate::LoadError;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of each tensor's start and end that go into the hash.
const SAMPLE: usize = 4096;

impl Entry {
    /// The first and the last [`SAMPLE`] bytes, or all twice if there are fewer.
    pub(super) fn ends(&self) -> [Range<usize>; 2] {
        let Range { start, end } = self.range;
        [
            start..end.min(start + SAMPLE),
            start.max(end.saturating_sub(SAMPLE))..end,
        ]
    }
}

impl Weights {
    /// Hexadecimal sha256 over names, shapes, formats, and the first and last [`SAMPLE`] bytes of each tensor as stored,
    /// in the order of names. A fine-tuned or requantized checkpoint differs; a resharded one does not.
    pub(crate) fn hash(&self) -> Result<String, LoadError> {
        let mut hash = Sha256::new();
        for (name, entry) in &self.entries {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((entry.shape.len() as u64).to_le_bytes());
            for size in &entry.shape {
                hash.update((*size as u64).to_le_bytes());
            }
            hash.update(entry.stored.name());
            if entry.range.is_empty() {
                continue;
            }
            for end in entry.ends() {
                hash.update(&*self.files.map(entry.file, end)?);
            }
        }
        let digits = hash.finalize().into_iter().flat_map(|b| [b >> 4, b & 15]);
        Ok(digits
            .filter_map(|d| char::from_digit(d.into(), 16))
            .collect())
    }

    /// Values in the tensors that the model used.
    pub(crate) fn parameters(&self) -> u64 {
        let used = self.entries.values().filter_map(|e| e.used.get());
        used.map(|u| u.values as u64).sum()
    }

    /// The format that most values of the model are computed with.
    pub(crate) fn format(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for used in self.entries.values().filter_map(|e| e.used.get()) {
            if let Some(format) = used.format {
                *counts.entry(format).or_default() += used.values;
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or_else(String::new, |(name, _)| name.to_owned())
    }
}
