//! [`Top`]: what stands on an encoder's hidden states: a pooling and dense layers, for one row per request, or dense layers
//! over every token's row.

use super::encoder::Norm;
use super::linear::Linear;
use super::pooling::Pooling;
use crate::weights::Weights;
use crate::{Batch, LoadError, Workspace};
use koma_kernels::{Cx, Rows, Then, pool};

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
    /// Writes the row of each request that alone goes on, if the others do not: what comes behind the last attention need not be
    /// computed for those.
    pub(crate) fn pick(&self, batch: &Batch, rows: &mut Vec<u32>) -> bool {
        let mode = match &self.select {
            Select::Pool(modes) => match modes[..] {
                [mode @ (Pooling::Cls | Pooling::Last)] => mode,
                _ => return false,
            },
            Select::Tokens => return false,
        };
        rows.clear();
        rows.extend(batch.cu_seqlens.windows(2).enumerate().map(|(i, ends)| {
            let skip = batch.skips.get(i).copied().unwrap_or(0);
            if mode == Pooling::Cls {
                ends[0] + skip
            } else {
                ends[1] - 1
            }
        }));
        true
    }

    /// From `work.hidden`, `[tokens, hidden]`, or `[requests, hidden]` of the rows that were picked, to `work.output`,
    /// `[requests or tokens, width]`.
    pub(crate) fn forward(&self, cx: &Cx, batch: &Batch, picked: bool, work: &mut Workspace) {
        let w = work;
        let every_row = match &self.select {
            _ if picked => {
                if self.stages.is_empty() {
                    w.output.copy_from(&w.hidden);
                }
                true
            }
            Select::Pool(modes) => {
                let bare = self.stages.is_empty();
                let to = if bare { &mut w.output } else { &mut w.normed };
                let texts = (&batch.cu_seqlens[..], &batch.skips[..]);
                pool(cx, modes, &w.hidden, texts, to);
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
            let from = if i == 0 && every_row {
                &mut w.hidden
            } else {
                from
            };
            let last = i + 1 == self.stages.len();
            stage.forward(cx, from, &mut w.side, if last { &mut w.output } else { to });
        }
    }
}
