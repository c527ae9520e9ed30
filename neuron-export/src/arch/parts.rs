//! [`Parts`]: what layers are made of, as operations.

use super::ArchError;
use crate::graph::{Binary, Builder, Dim, Elem, Reduction, Unary, Value};
use crate::manifest::Precision;
use koma_models::Tensors;
use koma_models::kernels::Then;

/// A graph under construction, over the weights of a checkpoint.
pub(super) struct Parts<'a> {
    pub(super) b: Builder,
    pub(super) tensors: &'a Tensors,
    pub(super) precision: Precision,
}

impl Parts<'_> {
    /// The weight that the architecture calls `name`, under the checkpoint's own name.
    pub(super) fn weight(
        &mut self,
        name: &str,
        elem: Elem,
        dims: &[usize],
    ) -> Result<Value, ArchError> {
        let name = self.tensors.own_name(name)?;
        Ok(self.b.weight(name, elem, dims))
    }

    /// Products of `a` and `b`, which are rounded to the precision that was asked for; sums are not.
    pub(super) fn product(
        &mut self,
        (a, b): (Value, Value),
        contract: (usize, usize),
        batch: &[(usize, usize)],
    ) -> Value {
        let elem = self.operand();
        let operands = (self.b.convert(a, elem), self.b.convert(b, elem));
        self.b.dot(operands, contract, batch)
    }

    fn operand(&self) -> Elem {
        match self.precision {
            Precision::F32 => Elem::F32,
            Precision::Bf16 => Elem::Bf16,
        }
    }

    /// `x W^T + b` of the tensors `name.weight`, `[outputs, inputs]`, and `name.bias`. `x`: `[.., inputs]`.
    pub(super) fn linear(
        &mut self,
        x: Value,
        name: &str,
        (outputs, inputs): (usize, usize),
        bias: bool,
    ) -> Result<Value, ArchError> {
        let elem = self.operand();
        let weight = self.weight(&format!("{name}.weight"), elem, &[outputs, inputs])?;
        let last = self.b.dims(x).len() - 1;
        let y = self.product((x, weight), (last, 1), &[]);
        if !bias {
            return Ok(y);
        }
        let bias = self.weight(&format!("{name}.bias"), Elem::F32, &[outputs])?;
        let dims = self.b.dims(y);
        let bias = self.b.broadcast(bias, &dims, &[last]);
        Ok(self.b.binary(Binary::Add, y, bias))
    }

    /// Layer norm (Ba et al., arXiv:1607.06450) over the last axis of `x`, `[.., width]`, variance over `width`.
    pub(super) fn norm(&mut self, x: Value, name: &str, eps: f32) -> Result<Value, ArchError> {
        let dims = self.b.dims(x);
        let (last, width) = last(&dims);
        let gain = self.weight(&format!("{name}.weight"), Elem::F32, &[width])?;
        let bias = self.weight(&format!("{name}.bias"), Elem::F32, &[width])?;
        let b = &mut self.b;
        let outer: Vec<usize> = (0..last).collect();
        let mean = |b: &mut Builder, x| {
            let sum = b.reduce(Reduction::Add, x, last);
            b.with(Binary::Mul, sum, 1.0 / width as f32)
        };
        let middle = mean(b, x);
        let middle = b.broadcast(middle, &dims, &outer);
        let centred = b.binary(Binary::Sub, x, middle);
        let squared = b.binary(Binary::Mul, centred, centred);
        let variance = mean(b, squared);
        let variance = b.with(Binary::Add, variance, eps);
        let scale = b.unary(Unary::Rsqrt, variance);
        let scale = b.broadcast(scale, &dims, &outer);
        let y = b.binary(Binary::Mul, centred, scale);
        let gain = b.broadcast(gain, &dims, &[last]);
        let y = b.binary(Binary::Mul, y, gain);
        let bias = b.broadcast(bias, &dims, &[last]);
        Ok(b.binary(Binary::Add, y, bias))
    }

    /// Softmax over the last axis, shifted by the largest value, so that any finite row is safe.
    pub(super) fn softmax(&mut self, x: Value) -> Value {
        let b = &mut self.b;
        let dims = b.dims(x);
        let last = dims.len() - 1;
        let outer: Vec<usize> = (0..last).collect();
        let most = b.reduce(Reduction::Max, x, last);
        let most = b.broadcast(most, &dims, &outer);
        let shifted = b.binary(Binary::Sub, x, most);
        let powers = b.unary(Unary::Exp, shifted);
        let sum = b.reduce(Reduction::Add, powers, last);
        let sum = b.broadcast(sum, &dims, &outer);
        b.binary(Binary::Div, powers, sum)
    }

    /// What comes behind a product.
    pub(super) fn then(&mut self, x: Value, then: Then) -> Result<Value, ArchError> {
        match then {
            Then::Store => Ok(x),
            Then::GeluErf => Ok(self.gelu_erf(x)),
            Then::GeluTanh => Ok(self.gelu_tanh(x)),
            Then::Relu => Ok(self.b.with(Binary::Max, x, 0.0)),
            Then::Tanh => Ok(self.b.unary(Unary::Tanh, x)),
            Then::Add | Then::SiluMul | Then::GeluErfMul | Then::GeluTanhMul => Err(
                ArchError::Unsupported(format!("the activation {then:?} cannot be exported")),
            ),
        }
    }

    /// `x / 2 (1 + erf(x / sqrt 2))`, the exact GELU (Hendrycks and Gimpel, arXiv:1606.08415), with erf by formula 7.1.26 of
    /// Abramowitz and Stegun: error at most 1.5e-7.
    fn gelu_erf(&mut self, x: Value) -> Value {
        /// Of the powers of t, the highest first.
        const COEFFICIENTS: [f64; 5] = [
            1.061_405_429,
            -1.453_152_027,
            1.421_413_741,
            -0.284_496_736,
            0.254_829_592,
        ];
        const P: f64 = 0.327_591_1;
        let b = &mut self.b;
        let z = b.with(Binary::Mul, x, std::f32::consts::FRAC_1_SQRT_2);
        let size = b.unary(Unary::Abs, z);
        let t = b.with(Binary::Mul, size, P as f32);
        let t = b.with(Binary::Add, t, 1.0);
        let dims = b.dims(x);
        let one = b.full(1.0, &dims);
        let t = b.binary(Binary::Div, one, t);
        let mut sum = b.full(COEFFICIENTS[0] as f32, &dims);
        for coefficient in &COEFFICIENTS[1..] {
            sum = b.binary(Binary::Mul, sum, t);
            sum = b.with(Binary::Add, sum, *coefficient as f32);
        }
        sum = b.binary(Binary::Mul, sum, t);
        let squared = b.binary(Binary::Mul, z, z);
        let squared = b.unary(Unary::Neg, squared);
        let power = b.unary(Unary::Exp, squared);
        let rest = b.binary(Binary::Mul, sum, power);
        let erf = b.binary(Binary::Sub, one, rest);
        let sign = b.unary(Unary::Sign, z);
        let erf = b.binary(Binary::Mul, erf, sign);
        let factor = b.with(Binary::Add, erf, 1.0);
        let half = b.with(Binary::Mul, x, 0.5);
        b.binary(Binary::Mul, half, factor)
    }

    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, the tanh form of GELU (same paper).
    fn gelu_tanh(&mut self, x: Value) -> Value {
        let b = &mut self.b;
        let squared = b.binary(Binary::Mul, x, x);
        let cubed = b.binary(Binary::Mul, squared, x);
        let cubed = b.with(Binary::Mul, cubed, 0.044_715);
        let inner = b.binary(Binary::Add, x, cubed);
        let inner = b.with(Binary::Mul, inner, (2.0 / std::f32::consts::PI).sqrt());
        let tanh = b.unary(Unary::Tanh, inner);
        let factor = b.with(Binary::Add, tanh, 1.0);
        let half = b.with(Binary::Mul, x, 0.5);
        b.binary(Binary::Mul, half, factor)
    }
}

/// The last axis, and how long it is.
pub(super) fn last(dims: &[Dim]) -> (usize, usize) {
    match dims {
        [.., Dim::Fixed(width)] => (dims.len() - 1, *width),
        _ => panic!("rows have a fixed width, not {dims:?}"),
    }
}
