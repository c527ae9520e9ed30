//! [`Linear`]: one product, of one weight or of several that the checkpoint keeps apart and a layer wants side by side.

use crate::LoadError;
use crate::weights::{Precision, Weights};
use koma_kernels::{
    Cx, Epilogue, Format, PackedWeight, Rows, Then, gelu_erf, gelu_tanh, linear, silu,
};
use std::sync::Arc;

/// Where the parts of a [`Linear`] come from: names without `.weight` and `.bias`.
pub(crate) struct Parts<'a> {
    /// Name and output rows of each part, from top to bottom.
    pub(crate) outputs: &'a [(String, usize)],
    /// Input columns.
    pub(crate) cols: usize,
    /// Whether the parts have biases.
    pub(crate) bias: bool,
    /// How far their precision may go down.
    pub(crate) precision: Precision,
}

/// `y = W x + b`. Weights of one format are stacked into one; a checkpoint that mixes formats (GGUF does) or orders of columns
/// (GPTQ may) keeps its parts, whose products are then put side by side.
pub(crate) struct Linear {
    /// One, or several of different formats.
    parts: Vec<Part>,
}

struct Part {
    weight: Arc<PackedWeight>,
    /// `[weight.rows()]`.
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads and stacks the parts.
    pub(crate) fn load(weights: &Weights, from: &Parts<'_>) -> Result<Self, LoadError> {
        let name = |(name, rows): &(String, usize)| (format!("{name}.weight"), *rows);
        let names: Vec<_> = from.outputs.iter().map(name).collect();
        let matrices = weights.stacked(&names, from.cols, from.precision)?;
        let bias = |(name, rows): &(String, usize)| weights.vector(&format!("{name}.bias"), *rows);
        let biases = if from.bias {
            Some(from.outputs.iter().map(bias).collect::<Result<_, _>>()?)
        } else {
            None
        };
        Ok(Self::new(weights.all_settled(matrices)?, biases))
    }

    /// `biases`: of the parts that the checkpoint keeps apart, whether they are stacked or not.
    fn new(matrices: Vec<PackedWeight>, biases: Option<Vec<Vec<f32>>>) -> Self {
        let stacked = matrices.len() == 1;
        let biases = biases.map(|each| if stacked { vec![each.concat()] } else { each });
        let mut biases = biases.into_iter().flatten();
        let part = |weight| Part {
            weight: Arc::new(weight),
            bias: biases.next(),
        };
        Self {
            parts: matrices.into_iter().map(part).collect(),
        }
    }

    /// Reads one part.
    pub(crate) fn load_one(
        weights: &Weights,
        name: &str,
        (rows, cols): (usize, usize),
        bias: bool,
    ) -> Result<Self, LoadError> {
        let outputs = &[(name.to_owned(), rows)];
        Self::load(
            weights,
            &Parts {
                outputs,
                cols,
                bias,
                precision: Precision::Any,
            },
        )
    }

    /// As [`Linear::load_one`], but not in int8 or FP8.
    pub(crate) fn load_fine(
        weights: &Weights,
        name: &str,
        (rows, cols): (usize, usize),
        bias: bool,
    ) -> Result<Self, LoadError> {
        let outputs = &[(name.to_owned(), rows)];
        Self::load(
            weights,
            &Parts {
                outputs,
                cols,
                bias,
                precision: Precision::Fine,
            },
        )
    }

    /// One weight that is shared with something else (a tied embedding), no bias.
    pub(crate) fn shared(weight: Arc<PackedWeight>) -> Self {
        let part = Part { weight, bias: None };
        Self { parts: vec![part] }
    }

    /// Whether the product rounds activations to bf16 or int8 as a whole: what is near it may be as rough.
    pub(crate) fn rounds(&self) -> bool {
        let rounds = |p: &Part| matches!(p.weight.format(), Format::Bf16 | Format::Int8);
        self.parts.iter().all(rounds)
    }

    /// `out = then(x W^T + b)`, as [`linear`]. `side` is used only by parts of different formats, which cannot be added
    /// to a residual ([`Then::Add`]).
    pub(crate) fn forward(&self, cx: &Cx, x: &Rows, then: Then, side: &mut Rows, out: &mut Rows) {
        match self.parts.as_slice() {
            [part] => {
                let epilogue = Epilogue::bias(part.bias.as_deref(), then);
                linear(cx, x, &part.weight, epilogue, out);
            }
            parts => side_by_side(cx, x, parts, then, side, out),
        }
    }
}

fn side_by_side(cx: &Cx, x: &Rows, parts: &[Part], then: Then, side: &mut Rows, out: &mut Rows) {
    assert!(
        then != Then::Add,
        "parts of different formats have no residual"
    );
    let rows: usize = parts.iter().map(|p| p.weight.rows()).sum();
    let gated = then.is_gated();
    let activate = match then {
        Then::GeluErfMul => gelu_erf,
        Then::GeluTanhMul => gelu_tanh,
        _ => silu,
    };
    let each = if gated { Then::Store } else { then };
    out.reset(x.rows(), if gated { rows / 2 } else { rows });
    let mut at = 0;
    for part in parts {
        linear(
            cx,
            x,
            &part.weight,
            Epilogue::bias(part.bias.as_deref(), each),
            side,
        );
        for r in 0..x.rows() {
            let from = side.row(r);
            if gated && at > 0 {
                out.row_mut(r)
                    .iter_mut()
                    .zip(from)
                    .for_each(|(o, up)| *o *= up);
            } else if gated {
                out.row_mut(r)
                    .iter_mut()
                    .zip(from)
                    .for_each(|(o, gate)| *o = activate(*gate));
            } else {
                out.row_mut(r)[at..at + from.len()].copy_from_slice(from);
            }
        }
        at += part.weight.rows();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::stack_alike;
    use koma_kernels::{Class, Isa, Team};

    fn part(format: Format, rows: usize, seed: f32) -> (PackedWeight, Vec<f32>) {
        let values: Vec<f32> = (0..rows * 4).map(|i| (i as f32 * seed).sin()).collect();
        let bias = (0..rows).map(|i| i as f32 * 0.1).collect();
        let weight = PackedWeight::from_f32(rows, 4, format, &values).unwrap();
        (weight, bias)
    }

    fn stack(parts: Vec<(PackedWeight, Vec<f32>)>) -> Linear {
        let (matrices, biases) = parts.into_iter().unzip();
        Linear::new(stack_alike(matrices).unwrap(), Some(biases))
    }

    /// Parts of one format are stacked, parts of two are not, and both give what the parts give one by one.
    #[test]
    fn parts_of_different_formats_stand_side_by_side() {
        let cx = Cx::new(Arc::new(Team::new(1)), Class::Throughput, Isa::Portable);
        let x = Rows::from_vec(4, vec![0.5, -1.0, 2.0, 0.25, 1.0, 0.0, -0.5, 3.0]);
        let mut side = Rows::new();
        for (second, stacked) in [(Format::F32, 1), (Format::Bf16, 2)] {
            for then in [Then::Store, Then::Relu, Then::SiluMul, Then::GeluErfMul] {
                let parts = || vec![part(Format::F32, 3, 0.7), part(second, 3, 0.3)];
                let linear = stack(parts());
                assert_eq!(linear.parts.len(), stacked, "{second:?}");
                let mut out = Rows::new();
                linear.forward(&cx, &x, then, &mut side, &mut out);
                let alone: Vec<Rows> = parts()
                    .into_iter()
                    .map(|p| {
                        let mut out = Rows::new();
                        stack(vec![p]).forward(&cx, &x, Then::Store, &mut side, &mut out);
                        out
                    })
                    .collect();
                for r in 0..2 {
                    let (a, b) = (alone[0].row(r), alone[1].row(r));
                    let expected: Vec<f32> = match then {
                        Then::SiluMul => a.iter().zip(b).map(|(a, b)| silu(*a) * b).collect(),
                        Then::GeluErfMul => {
                            a.iter().zip(b).map(|(a, b)| gelu_erf(*a) * b).collect()
                        }
                        Then::Relu => a.iter().chain(b).map(|v| v.max(0.0)).collect(),
                        _ => a.iter().chain(b).copied().collect(),
                    };
                    assert_eq!(out.row(r), expected, "{second:?} {then:?}");
                }
            }
        }
    }
}
