//! [`Pool`]: device memory of one stream, kept for the next who asks. What a buffer gives back may be handed out at once: work
//! on one stream runs in the order in which it was asked for.
//!
//! Invariant: which memory is handed out depends on which is free, not on the order in which it was given back: a step that finds
//! the same memory free as the one before gets the same addresses.

use super::gpu::Gpu;
use crate::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Free memory, by its bytes.
#[derive(Debug)]
pub(super) struct Pool {
    gpu: Arc<Gpu>,
    free: Mutex<BTreeMap<usize, BTreeSet<u64>>>,
}

/// Device memory. It goes back to its pool, or to the device.
#[derive(Debug)]
pub(crate) struct Buffer {
    pool: Arc<Pool>,
    at: u64,
    bytes: usize,
    /// Whether it goes to its pool, and not back to the device.
    kept: bool,
}

/// Bytes that are taken for a request of `bytes`: few sizes, so that what is given back fits others.
fn rounded(bytes: usize) -> usize {
    let step = if bytes < 1 << 20 { 512 } else { 2 << 20 };
    bytes.max(1).next_multiple_of(step)
}

impl Pool {
    pub(super) fn new(gpu: Arc<Gpu>) -> Arc<Self> {
        let free = Mutex::default();
        Arc::new(Self { gpu, free })
    }

    /// `bytes` bytes or a little more.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer, Error> {
        let bytes = rounded(bytes);
        let buffer = |(at, bytes)| Buffer {
            pool: Arc::clone(self),
            at,
            bytes,
            kept: true,
        };
        if let Some(found) = self.find(bytes) {
            return Ok(buffer(found));
        }
        Ok(buffer((self.gpu.allocate(bytes)?, bytes)))
    }

    /// As [`Pool::take`], of memory that goes back to the device when it is dropped: for what is large and taken once.
    pub(super) fn take_apart(self: &Arc<Self>, bytes: usize) -> Result<Buffer, Error> {
        Ok(Buffer {
            pool: Arc::clone(self),
            at: self.gpu.allocate(bytes.max(1))?,
            bytes: bytes.max(1),
            kept: false,
        })
    }

    /// Free memory of at least this size and less than twice that.
    fn find(&self, bytes: usize) -> Option<(u64, usize)> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (&size, all) = free.range_mut(bytes..2 * bytes).next()?;
        let at = all.pop_first()?;
        if all.is_empty() {
            free.remove(&size);
        }
        Some((at, size))
    }

    /// Gives what is free back to the device; returns its bytes. All work that uses it must have been asked of the device.
    pub(super) fn trim(&self) -> usize {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        let mut sum = 0;
        for (bytes, all) in free {
            sum += bytes * all.len();
            for at in all {
                self.gpu.free(at, bytes);
            }
        }
        sum
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

impl Buffer {
    /// Its address on the device.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that it has.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is of the pool that `other` is of.
    pub(super) fn of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.kept {
            return self.pool.gpu.free(self.at, self.bytes);
        }
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.entry(self.bytes).or_default().insert(self.at);
    }
}
