//! [`Top`]: what stands on an encoder's hidden states: a pooling and dense layers, for one row per request, or dense layers
//! over every token's row.

use super::encoder::Norm;
use super::linear::Linear;
use super::pooling::{Pooling, pool};
use crate::weights::Weights;
use crate::{Batch, LoadError, Workspace};
use koma_kernels::{Cx, Rows, Then};

/// Which rows go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// One row per request: these vectors side by side.
    Pool(Vec<Pooling>),
    /// The row of every token.
    Tokens,
}

/// A dense layer of a top as data: `then(W x + b)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSpec {
    /// Name of its tensors, without `.weight` and `.bias`.
    pub name: String,
    /// Values that it gives: rows of `W`.
    pub outputs: usize,
    /// Values that it takes: columns of `W`.
    pub inputs: usize,
    /// Whether there is a `b`.
    pub bias: bool,
    /// What comes behind the product: one of [`Then::Store`], [`Then::Tanh`], [`Then::Relu`], [`Then::GeluErf`],
    /// [`Then::GeluTanh`].
    pub then: Then,
}

impl StageSpec {
    /// A layer with a bias.
    pub(crate) fn new(name: &str, (outputs, inputs): (usize, usize), then: Then) -> Self {
        Self {
            name: name.to_owned(),
            outputs,
            inputs,
            bias: true,
            then,
        }
    }
}

/// One layer of a top: a [`StageSpec`], then perhaps a norm.
pub(crate) struct Stage {
    pub(crate) spec: StageSpec,
    linear: Linear,
    pub(crate) norm: Option<Norm>,
}

impl Stage {
    /// Reads a layer without a norm.
    pub(crate) fn load(weights: &Weights, spec: StageSpec) -> Result<Self, LoadError> {
        let shape = (spec.outputs, spec.inputs);
        Ok(Self {
            linear: Linear::load_fine(weights, &spec.name, shape, spec.bias)?,
            spec,
            norm: None,
        })
    }

    fn forward(&self, cx: &Cx, x: &Rows, side: &mut Rows, out: &mut Rows) {
        self.linear.forward(cx, x, self.spec.then, side, out);
        if let Some(norm) = &self.norm {
            norm.forward(cx, out);
        }
    }
}

/// See the module.
pub(crate) struct Top {
    pub(crate) select: Select,
    pub(crate) stages: Vec<Stage>,
}

impl Top {
    /// From `work.hidden`, `[tokens, hidden]`, to `work.output`, `[requests or tokens, width]`.
    pub(crate) fn forward(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) {
        let w = work;
        let every_token = match &self.select {
            Select::Pool(modes) => {
                let bare = self.stages.is_empty();
                let to = if bare { &mut w.output } else { &mut w.normed };
                pool(modes, &w.hidden, batch, to);
                false
            }
            Select::Tokens => true,
        };
        for (i, stage) in self.stages.iter().enumerate() {
            let (from, to) = if i % 2 == 0 {
                (&mut w.normed, &mut w.attended)
            } else {
                (&mut w.attended, &mut w.normed)
            };
            let from = if i == 0 && every_token {
                &mut w.hidden
            } else {
                from
            };
            let last = i + 1 == self.stages.len();
            stage.forward(cx, from, &mut w.side, if last { &mut w.output } else { to });
        }
    }
}
