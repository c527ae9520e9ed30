//! The cache of one model, as book-keeping: which request holds which block, and which blocks hold which prefix.
//!
//! Owns: [`pool`] (one per cache group: reference counts, free list), [`key`] (prefixes that are cached), [`manager`]
//! (what a request holds in all groups). Must not know: tensors, scheduling.
//!
//! Invariant: a block is free or referenced, never both; its references are exactly the requests that hold it; a block
//! that several requests hold is full and never written again.

mod key;
mod manager;
mod pool;
#[cfg(test)]
mod tests;

pub(crate) use key::Salt;
pub(crate) use manager::{BlockCopy, CacheManager, CacheShape, RequestCache};
