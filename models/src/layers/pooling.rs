//! From the hidden states of a text to one vector.

use koma_kernels::Rows;

/// How token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token's.
    Cls,
    /// The largest value at each place.
    Max,
    /// The last token's.
    Last,
}

impl Pooling {
    /// One row per request. `hidden`: `[tokens, width]`; request `i` has rows `cu_seqlens[i]..cu_seqlens[i + 1]`, at least
    /// one; `out` becomes `[requests, width]`.
    pub(crate) fn forward(self, hidden: &Rows, cu_seqlens: &[u32], out: &mut Rows) {
        out.reset(cu_seqlens.len().saturating_sub(1), hidden.width());
        for (i, bounds) in cu_seqlens.windows(2).enumerate() {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            let out = out.row_mut(i);
            let first = if self == Self::Last { end - 1 } else { start };
            out.copy_from_slice(hidden.row(first));
            for r in start + 1..end {
                let row = hidden.row(r).iter();
                match self {
                    Self::Mean => out.iter_mut().zip(row).for_each(|(o, v)| *o += v),
                    Self::Max => out.iter_mut().zip(row).for_each(|(o, v)| *o = o.max(*v)),
                    Self::Cls | Self::Last => break,
                }
            }
            if self == Self::Mean {
                let tokens = (end - start) as f32;
                for o in out {
                    *o /= tokens;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_pooling() {
        let hidden = Rows::from_vec(2, vec![1.0, -4.0, 3.0, 0.0, 5.0, 2.0, 9.0, 8.0]);
        let cases = [
            (Pooling::Mean, [3.0, -2.0 / 3.0, 9.0, 8.0]),
            (Pooling::Cls, [1.0, -4.0, 9.0, 8.0]),
            (Pooling::Max, [5.0, 2.0, 9.0, 8.0]),
            (Pooling::Last, [5.0, 2.0, 9.0, 8.0]),
        ];
        for (pooling, expected) in cases {
            let mut out = Rows::new();
            pooling.forward(&hidden, &[0, 3, 4], &mut out);
            assert_eq!(out.as_slice(), expected, "{pooling:?}");
        }
    }
}
