//! From the hidden states of a row's tokens to one vector, as `koma-models` does it on unpadded texts.

use super::parts::{Parts, last};
use crate::graph::{Binary, Compare, Dim, Elem, Reduction, Unary, Value};
use koma_models::spec::Pooling;

/// What stands for a value under a mask of 0 where the largest is looked for.
const LOWEST: f32 = -1e9;
/// Smallest divisor: a row without tokens stays finite.
const TINY: f32 = 1e-9;

impl Parts<'_> {
    /// The vector of each row of `x`, f32 `[Batch, Seq, hidden]`; `[Batch, hidden]`. `mask`: f32 `[Batch, Seq]`, 1 for tokens, which
    /// stand before what is none.
    pub(super) fn pool(&mut self, x: Value, mask: Value, pooling: Pooling) -> Value {
        let count = |parts: &mut Self| parts.b.reduce(Reduction::Add, mask, 1);
        match pooling {
            Pooling::Cls => self.first(x),
            Pooling::Max => self.largest(x, mask),
            Pooling::Mean => {
                let over = count(self);
                self.weighted(x, mask, over)
            }
            Pooling::MeanSqrtLen => {
                // n / sqrt(n), as there is no square root among the operations.
                let count = count(self);
                let positive = self.b.with(Binary::Max, count, TINY);
                let inverse = self.b.unary(Unary::Rsqrt, positive);
                let over = self.b.binary(Binary::Mul, count, inverse);
                self.weighted(x, mask, over)
            }
            Pooling::WeightedMean => {
                let places = self.places();
                let places = self.b.with(Binary::Add, places, 1.0);
                let weights = self.b.binary(Binary::Mul, places, mask);
                let over = self.b.reduce(Reduction::Add, weights, 1);
                self.weighted(x, weights, over)
            }
            Pooling::Last => {
                let count = count(self);
                let last = self.b.with(Binary::Add, count, -1.0);
                let last = self.b.broadcast(last, &[Dim::Batch, Dim::Seq], &[0]);
                let places = self.places();
                let chosen = self.b.compare(Compare::Eq, places, last);
                let chosen = self.b.convert(chosen, Elem::F32);
                let over = self.b.reduce(Reduction::Add, chosen, 1);
                self.weighted(x, chosen, over)
            }
        }
    }

    /// The first token's values.
    fn first(&mut self, x: Value) -> Value {
        let (_, width) = last(&self.b.dims(x));
        let first = self.b.slice(x, 1, (0, Dim::Fixed(1)));
        self.b.reshape(first, &[Dim::Batch, Dim::Fixed(width)])
    }

    /// f32 `[Batch, Seq]`: 0, 1, 2... in each row.
    fn places(&mut self) -> Value {
        let count = self.b.count();
        let count = self.b.convert(count, Elem::F32);
        self.b.broadcast(count, &[Dim::Batch, Dim::Seq], &[1])
    }

    /// The sum of the tokens' values times `weights`, `[Batch, Seq]`, divided by `over`, `[Batch]`.
    fn weighted(&mut self, x: Value, weights: Value, over: Value) -> Value {
        let dims = self.b.dims(x);
        let weights = self.b.broadcast(weights, &dims, &[0, 1]);
        let weighted = self.b.binary(Binary::Mul, x, weights);
        let sum = self.b.reduce(Reduction::Add, weighted, 1);
        let over = self.b.with(Binary::Max, over, TINY);
        let over = self.b.broadcast(over, &[dims[0], dims[2]], &[0]);
        self.b.binary(Binary::Div, sum, over)
    }

    fn largest(&mut self, x: Value, mask: Value) -> Value {
        let dims = self.b.dims(x);
        let mask = self.b.broadcast(mask, &dims, &[0, 1]);
        let zero = self.b.full(0.0, &dims);
        let taken = self.b.compare(Compare::Ne, mask, zero);
        let lowest = self.b.full(LOWEST, &dims);
        let x = self.b.select(taken, x, lowest);
        self.b.reduce(Reduction::Max, x, 1)
    }
}
