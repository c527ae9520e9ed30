//! Sums of embeddings at the foot of an encoder.

use koma_kernels::{Cx, PackedWeight, Rows, add_rows, embed};

/// Adds row `ids[i]` of `table` to row `i` of `hidden`; without ids, row 0 to each row. `side`: scratch.
pub(crate) fn add(cx: &Cx, ids: &[u32], table: &PackedWeight, side: &mut Rows, hidden: &mut Rows) {
    embed(cx, if ids.is_empty() { &[0] } else { ids }, table, side);
    add_rows(cx, side, hidden);
}
