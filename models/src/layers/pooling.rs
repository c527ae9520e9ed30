//! From the hidden states of a text to one vector, as sentence-transformers' `Pooling` makes it.

use crate::Batch;
use koma_kernels::Rows;
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

impl Pooling {
    /// All of them, by the names that sentence-transformers has for them.
    pub(crate) const NAMED: [(&str, Self); 6] = [
        ("cls", Self::Cls),
        ("max", Self::Max),
        ("mean", Self::Mean),
        ("mean_sqrt_len_tokens", Self::MeanSqrtLen),
        ("weightedmean", Self::WeightedMean),
        ("lasttoken", Self::Last),
    ];

    /// The name that sentence-transformers has for it.
    ///
    /// # Panics
    /// Never: all are named.
    pub fn name(self) -> &'static str {
        let named = Self::NAMED.iter().find(|(_, pooling)| *pooling == self);
        named.expect("all of them are named").0
    }

    /// The vector of the text whose tokens are the rows `text` of `hidden`, of which those from `first` on take part: at
    /// least one. `out`: one row's values.
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

/// One row per request: the vectors of `modes` side by side, of the tokens behind [`Batch::skips`]. `hidden`:
/// `[tokens, width]`; `out` becomes `[requests, modes.len() * width]`.
pub(crate) fn pool(modes: &[Pooling], hidden: &Rows, batch: &Batch, out: &mut Rows) {
    let width = hidden.width();
    out.reset(batch.requests(), modes.len() * width);
    for (i, bounds) in batch.cu_seqlens.windows(2).enumerate() {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        let skip = batch.skips.get(i).map_or(0, |skip| *skip as usize);
        for (mode, out) in modes.iter().zip(out.row_mut(i).chunks_exact_mut(width)) {
            mode.one(hidden, start..end, start + skip, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_pooling() {
        let hidden = Rows::from_vec(2, vec![1.0, -4.0, 3.0, 0.0, 5.0, 2.0, 9.0, 8.0]);
        let half = 3f32.sqrt();
        let cases: [(Pooling, [f32; 4], [f32; 2]); 6] = [
            (Pooling::Cls, [1.0, -4.0, 9.0, 8.0], [3.0, 0.0]),
            (Pooling::Max, [5.0, 2.0, 9.0, 8.0], [5.0, 2.0]),
            (Pooling::Mean, [3.0, -2.0 / 3.0, 9.0, 8.0], [4.0, 1.0]),
            (
                Pooling::MeanSqrtLen,
                [9.0 / half, -2.0 / half, 9.0, 8.0],
                [8.0 / 2f32.sqrt(), 2.0 / 2f32.sqrt()],
            ),
            (
                Pooling::WeightedMean,
                [22.0 / 6.0, 2.0 / 6.0, 9.0, 8.0],
                [21.0 / 5.0, 6.0 / 5.0],
            ),
            (Pooling::Last, [5.0, 2.0, 9.0, 8.0], [5.0, 2.0]),
        ];
        let mut batch = Batch::default();
        batch.clear(0);
        batch.cu_seqlens.extend([3, 4]);
        batch.kv_lens.extend([3, 1]);
        for (pooling, all, without_first) in cases {
            let mut out = Rows::new();
            batch.skips.clear();
            pool(&[pooling], &hidden, &batch, &mut out);
            assert_eq!(out.as_slice(), all, "{pooling:?}");
            batch.skips.extend([1, 0]);
            pool(&[Pooling::Cls, pooling], &hidden, &batch, &mut out);
            assert_eq!(
                out.row(0),
                [&[3.0, 0.0], &without_first[..]].concat(),
                "{pooling:?}"
            );
            assert_eq!(out.row(1), [9.0, 8.0, all[2], all[3]], "{pooling:?}");
        }
    }
}
