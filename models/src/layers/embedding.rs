//! Sums of embeddings at the foot of an encoder.

use koma_kernels::{Cx, PackedWeight, Rows, embed};

/// Adds row `ids[i]` of `table` to row `i` of `hidden`; without ids, row 0 to each row. `side`: scratch.
pub(crate) fn add(cx: &Cx, ids: &[u32], table: &PackedWeight, side: &mut Rows, hidden: &mut Rows) {
    embed(cx, if ids.is_empty() { &[0] } else { ids }, table, side);
    for r in 0..hidden.rows() {
        let from = side.row(if ids.is_empty() { 0 } else { r });
        hidden
            .row_mut(r)
            .iter_mut()
            .zip(from)
            .for_each(|(h, e)| *h += e);
    }
}
