//! From the rows of a text's tokens to one vector, as sentence-transformers' `Pooling` makes it.

use crate::{Cx, Rows};
use std::ops::Range;

/// How token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The largest value at each place.
    Max,
    /// The mean of all tokens.
    Mean,
    /// Their sum over the square root of their number.
    MeanSqrtLen,
    /// Their mean with weights 1, 2, 3... from the start of the text (Muennighoff, arXiv:2202.08904).
    WeightedMean,
    /// The last token's.
    Last,
}

/// One row for each text: the vectors of `modes` side by side. Text `i` is the rows `cu_seqlens[i]..cu_seqlens[i + 1]` of `hidden`
/// (`[tokens, width]`), of which the first `skips[i]` take no part; no `skips` are all 0. `out` becomes
/// `[texts, modes.len() * width]`.
///
/// # Panics
/// If the texts are not rows of `hidden`, one has no token that takes part, or there is no mode or no width.
#[track_caller]
pub fn pool(
    cx: &Cx,
    modes: &[Pooling],
    hidden: &Rows,
    (cu_seqlens, skips): (&[u32], &[u32]),
    out: &mut Rows,
) {
    let texts = cu_seqlens.len().saturating_sub(1);
    let skip = |i: usize| skips.get(i).copied().unwrap_or(0);
    let taking_part = |(i, ends): (usize, &[u32])| {
        let tokens = ends[1].checked_sub(ends[0]);
        tokens.is_some_and(|tokens| tokens > skip(i))
    };
    let good = cu_seqlens.windows(2).enumerate().all(taking_part);
    assert!(good, "pool: a text without a token");
    assert!(skips.is_empty() || skips.len() == texts, "pool: skips");
    let last = cu_seqlens.last().map_or(0, |end| *end as usize);
    assert!(last <= hidden.rows(), "pool: a token that there is not");
    let width = hidden.width();
    assert!(!modes.is_empty() && width > 0, "pool: nothing to make");
    out.reset(texts, modes.len() * width);
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::pool(stream, modes, hidden, (cu_seqlens, skips), out);
    }
    let _ = cx;
    for (i, ends) in cu_seqlens.windows(2).enumerate() {
        let text = ends[0] as usize..ends[1] as usize;
        let first = text.start + skip(i) as usize;
        for (mode, out) in modes.iter().zip(out.row_mut(i).chunks_exact_mut(width)) {
            mode.one(hidden, text.clone(), first, out);
        }
    }
}

impl Pooling {
    /// The vector of the text whose tokens are the rows `text` of `hidden`, of which those from `first` on take part. `out`: one
    /// row's values. Sums are in the order of the tokens; `cuda/pool.cu` has the same.
    fn one(self, hidden: &Rows, text: Range<usize>, first: usize, out: &mut [f32]) {
        let copied = if self == Self::Last {
            text.end - 1
        } else {
            first
        };
        out.copy_from_slice(hidden.row(copied));
        let weight = |r: usize| (r - text.start + 1) as f32;
        if self == Self::WeightedMean {
            for o in out.iter_mut() {
                *o *= weight(first);
            }
        }
        for r in first + 1..text.end {
            let row = out.iter_mut().zip(hidden.row(r));
            match self {
                Self::Mean | Self::MeanSqrtLen => row.for_each(|(o, v)| *o += v),
                Self::WeightedMean => row.for_each(|(o, v)| *o += v * weight(r)),
                Self::Max => row.for_each(|(o, v)| *o = o.max(*v)),
                Self::Cls | Self::Last => break,
            }
        }
        let tokens = (text.end - first) as f32;
        let over = match self {
            Self::Mean => tokens,
            Self::MeanSqrtLen => tokens.sqrt(),
            Self::WeightedMean => (first..text.end).map(weight).sum(),
            Self::Cls | Self::Last | Self::Max => return,
        };
        for o in out {
            *o /= over;
        }
    }
}
