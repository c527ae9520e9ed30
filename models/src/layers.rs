//! The parts that architectures are made of, over `koma-kernels` operations.
//!
//! Owns: weights of a layer and the order of its operations. Must not know: names of tensors, files.
//!
//! Invariant: a forward allocates nothing once its buffers have seen the largest step.

pub(crate) mod apart;
pub(crate) mod decoder;
pub(crate) mod embedding;
pub(crate) mod encoder;
pub(crate) mod experts;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod pooling;
pub(crate) mod top;
