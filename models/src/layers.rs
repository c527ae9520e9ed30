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

use koma_kernels::Rows;

/// Copies the rows `rows` of `from` to `to`, in that order. `to` becomes `[rows.len(), from.width()]`.
pub(crate) fn gather(from: &Rows, rows: impl ExactSizeIterator<Item = u32>, to: &mut Rows) {
    to.reset(rows.len(), from.width());
    for (i, row) in rows.enumerate() {
        to.row_mut(i).copy_from_slice(from.row(row as usize));
    }
}
