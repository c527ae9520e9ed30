//! [`Graph`]: a model's computation as a list of typed operations, once for all shapes: batch and sequence are symbols.
//!
//! Owns: the operations, the types of their results, the checks of their operands. Must not know: architectures, file formats.
//!
//! Invariants: operands come before the operations that use them, and fit them: the builders are the only way to add one, and
//! a builder that is used wrongly panics (that is an error in this crate, as whatever comes from outside was checked before).
//! Values are not in the graph: weights have names. Equal constants, weights and inputs are one operation.

mod build;
#[cfg(test)]
pub(crate) mod eval;
#[cfg(test)]
mod tests;

use crate::manifest::{Dtype, InputName};
pub(crate) use build::Builder;

/// A dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// So many.
    Fixed(usize),
    /// Rows of a bucket.
    Batch,
    /// Tokens of a row.
    Seq,
}

/// Type of the values of an operation's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Elem {
    /// Truth values.
    Pred,
    /// 32 bit integers.
    S32,
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl From<Dtype> for Elem {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::S32 => Self::S32,
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Type of an operation's result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Type {
    /// Of its values.
    pub elem: Elem,
    /// Outermost first; none for a single value.
    pub dims: Vec<Dim>,
}

/// An operation's result: its place in [`Graph::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value(pub(crate) usize);

impl Value {
    /// The place in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// A sum or a largest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// From 0.
    Add,
    /// From the lowest finite f32.
    Max,
}

/// An operation of one operand, value by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unary {
    /// |x|
    Abs,
    /// e^x
    Exp,
    /// -x
    Neg,
    /// 1 / sqrt(x)
    Rsqrt,
    /// -1, 0 or 1
    Sign,
    /// Hyperbolic tangent.
    Tanh,
}

/// An operation of two operands of one type, value by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binary {
    /// a + b
    Add,
    /// a / b
    Div,
    /// The larger one.
    Max,
    /// a b
    Mul,
    /// a - b
    Sub,
}

/// A comparison, value by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compare {
    /// a = b
    Eq,
    /// a >= b
    Ge,
    /// a != b
    Ne,
}

/// What an operation does with its operands. Types are in the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// An input, s32 `[Batch, Seq]`.
    Input(InputName),
    /// The weight of this name, f32 or bf16, of fixed dimensions.
    Weight(String),
    /// One f32, by its bits ([`f32::to_bits`]).
    Real(u32),
    /// One s32.
    Integer(i32),
    /// s32 `[Seq]`: 0, 1, 2...
    Count,
    /// Value by value.
    Unary(Unary),
    /// Value by value.
    Binary(Binary),
    /// Value by value; the result is pred.
    Compare(Compare),
    /// Of a pred and two operands of one type: the first where it is true, the second elsewhere.
    Select,
    /// To the node's type; pred becomes 0 or 1.
    Convert,
    /// The operand's axis `i` becomes axis `axes[i]` of the result, in ascending order; the other axes repeat it.
    Broadcast {
        /// See above.
        axes: Vec<usize>,
    },
    /// The same values in the same order; [`Dim::Batch`] and [`Dim::Seq`] stay as they are, before all that changes.
    Reshape,
    /// Axis `i` of the result is the operand's axis `axes[i]`.
    Transpose {
        /// See above.
        axes: Vec<usize>,
    },
    /// From `starts[i]` up to and without `ends[i]` of each axis. An end is [`Dim::Batch`] or [`Dim::Seq`] where that much of the
    /// axis is taken; the axis is then at least as long.
    Slice {
        /// One for each axis.
        starts: Vec<usize>,
        /// One for each axis.
        ends: Vec<Dim>,
    },
    /// The second operand behind the first along the last axis.
    Concat,
    /// Products of two f32 or two bf16 operands, summed over `contract.0` of the first and `contract.1` of the second, for
    /// each index of the `batch` axes (of the first and of the second). The result has the batch axes, then what is left of the
    /// first operand, then of the second; it is f32, also of bf16: sums are not rounded to the operands' type.
    Dot {
        /// See above.
        batch: Vec<(usize, usize)>,
        /// See above.
        contract: (usize, usize),
    },
    /// Rows of the first operand, `[rows, width]`, by the numbers in the second, s32 `[..]`: the result is `[.., width]`.
    Gather,
    /// Over `axis`, which is gone in the result.
    Reduce {
        /// How.
        reduction: Reduction,
        /// Over which axis.
        axis: usize,
    },
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// With what.
    pub operands: Vec<Value>,
    /// Type of the result.
    pub ty: Type,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The operations. [`Op::Input`]s are the first, in the order of their parameter numbers.
    pub nodes: Vec<Node>,
    /// The result, f32 `[Batch, width]`.
    pub output: Value,
}

impl Graph {
    /// The operation that gives `value`.
    pub fn node(&self, value: Value) -> &Node {
        &self.nodes[value.0]
    }

    /// The inputs, in the order of their parameter numbers.
    pub fn inputs(&self) -> impl Iterator<Item = InputName> {
        self.nodes.iter().filter_map(|node| match node.op {
            Op::Input(name) => Some(name),
            _ => None,
        })
    }

    /// Names and types of the weights, in the order of their use, each once.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Weight(name) => Some((name.as_str(), &node.ty)),
            _ => None,
        })
    }
}

impl Elem {
    /// Bytes of a value as files hold it.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pred => 1,
            Self::Bf16 => 2,
            Self::S32 | Self::F32 => 4,
        }
    }
}

impl Dim {
    /// The number, in a bucket of `batch` rows of `seq` tokens.
    pub fn of(self, (batch, seq): (usize, usize)) -> usize {
        match self {
            Self::Fixed(n) => n,
            Self::Batch => batch,
            Self::Seq => seq,
        }
    }
}

impl Type {
    /// A type.
    pub fn new(elem: Elem, dims: &[Dim]) -> Self {
        Self {
            elem,
            dims: dims.to_vec(),
        }
    }

    /// The dimensions of a weight.
    ///
    /// # Panics
    /// If they are not fixed.
    pub fn fixed(&self) -> Vec<usize> {
        let fixed = |dim: &Dim| match dim {
            Dim::Fixed(n) => *n,
            _ => panic!("a weight has fixed dimensions, not {:?}", self.dims),
        };
        self.dims.iter().map(fixed).collect()
    }
}
