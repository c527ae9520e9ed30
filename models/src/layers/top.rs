//! [`Top`]: what stands on an encoder's hidden states: a pooling and dense layers, for one row per request, or dense layers
//! over every token's row.

use super::encoder::Norm;
use super::linear::Linear;
use super::pooling::{Pooling, pool};
use crate::{Batch, Workspace};
use koma_kernels::{Cx, Rows, Then};

/// Which rows go on.
pub(crate) enum Select {
    /// One row per request: these vectors side by side.
    Pool(Vec<Pooling>),
    /// The row of every token.
    Tokens,
}

/// One layer of a top: `norm(then(W x + b))`.
pub(crate) struct Stage {
    pub(crate) linear: Linear,
    pub(crate) then: Then,
    pub(crate) norm: Option<Norm>,
}

impl Stage {
    /// A layer without a norm.
    pub(crate) fn new(linear: Linear, then: Then) -> Self {
        Self {
            linear,
            then,
            norm: None,
        }
    }

    fn forward(&self, cx: &Cx, x: &Rows, side: &mut Rows, out: &mut Rows) {
        self.linear.forward(cx, x, self.then, side, out);
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
