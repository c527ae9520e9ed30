//! [`Mlp`]: the second half of a decoder layer, from normalised hidden states to what is added to the residual stream.

use super::experts::Experts;
use super::linear::Linear;
use crate::Workspace;
use koma_kernels::{Cx, Then};

/// The kinds there are.
pub(crate) enum Mlp {
    /// Dense and gated.
    Gated(GatedMlp),
    /// Many gated ones, a few of them for each token.
    Experts(Experts),
}

/// `down(activation(gate(x)) * up(x))` (Shazeer, arXiv:2002.05202).
pub(crate) struct GatedMlp {
    /// Rows of the gate, then of the up projection.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    /// A gated one: [`Then::SiluMul`] and the like.
    pub(crate) activation: Then,
}

impl Mlp {
    /// Reads `work.normed` `[tokens, hidden]`. With [`Then::Add`] the result is added to `work.hidden`; with [`Then::Store`]
    /// it is left in `work.attended`.
    pub(crate) fn forward(&self, cx: &Cx, then: Then, work: &mut Workspace) {
        match self {
            Self::Gated(mlp) => mlp.forward(cx, then, work),
            Self::Experts(mlp) => mlp.forward(cx, then, work),
        }
    }
}

impl GatedMlp {
    fn forward(&self, cx: &Cx, then: Then, work: &mut Workspace) {
        let w = work;
        // [tokens, inner], where queries, keys and values were
        self.gate_up
            .forward(cx, &w.normed, self.activation, &mut w.side, &mut w.qkv);
        let out = if then == Then::Add {
            &mut w.hidden
        } else {
            &mut w.attended
        };
        self.down.forward(cx, &w.qkv, then, &mut w.side, out);
    }
}
