//! [`Constants`]: small arrays of the host that operations read, kept on the device. An array is known by its place, and trusted
//! only after a look at its bytes: what changed is copied anew.

use super::pool::Buffer;
use std::collections::HashMap;

/// Arrays that are kept at most; beyond that all are forgotten.
const MOST: usize = 1 << 12;

#[derive(Debug, Default)]
pub(super) struct Constants {
    arrays: HashMap<(usize, usize), Kept>,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    buffer: Buffer,
}

impl Constants {
    /// Where `bytes` are on the device, if they are and have not changed.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u64> {
        let kept = self.arrays.get(&key(bytes))?;
        (kept.bytes == bytes).then(|| kept.buffer.at())
    }

    /// Keeps `bytes`: gives their place on the device, where the caller copies them; `make` finds memory where there is none.
    pub(super) fn keep<E>(
        &mut self,
        bytes: &[u8],
        make: impl FnOnce(usize) -> Result<Buffer, E>,
    ) -> Result<u64, E> {
        if let Some(kept) = self.arrays.get_mut(&key(bytes)) {
            // The order of the stream: who reads the old values comes first.
            kept.bytes.copy_from_slice(bytes);
            return Ok(kept.buffer.at());
        }
        if self.arrays.len() >= MOST {
            self.arrays.clear();
        }
        let buffer = make(bytes.len())?;
        let at = buffer.at();
        let bytes_kept = bytes.to_vec();
        let kept = Kept {
            bytes: bytes_kept,
            buffer,
        };
        self.arrays.insert(key(bytes), kept);
        Ok(at)
    }

    /// Forgets an array whose copy failed.
    pub(super) fn forget(&mut self, bytes: &[u8]) {
        self.arrays.remove(&key(bytes));
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.arrays.clear();
    }
}

fn key(bytes: &[u8]) -> (usize, usize) {
    (bytes.as_ptr() as usize, bytes.len())
}
