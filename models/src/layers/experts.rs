//! [`Experts`]: an MLP of many gated experts, a few of which each token goes through.
//!
//! Invariant: as of [`koma_kernels::route`] and what follows it: a token's result depends on that token alone.

use super::linear::Linear;
use crate::Workspace;
use koma_kernels::{
    Cx, Error, PackedWeight, Routing, Rows, Then, combine, linear_by_expert, route, silu_mul,
    spread,
};

/// `sum of weight * down(silu(gate(x)) * up(x))` over the experts that the router picks for `x`.
pub(crate) struct Experts {
    /// `[experts, hidden]`.
    pub(crate) router: Linear,
    pub(crate) gate_up: GateUp,
    /// `[hidden, inner]` for each expert.
    pub(crate) down: Vec<PackedWeight>,
    /// Experts of a token.
    pub(crate) top_k: usize,
    /// Whether the weights of a token's experts are made to add up to 1.
    pub(crate) renormalise: bool,
}

/// The gate and up projections of all experts.
pub(crate) enum GateUp {
    /// `[2 * inner, hidden]` for each expert: rows of the gate, then of the up projection.
    Stacked(Vec<PackedWeight>),
    /// `[inner, hidden]` for each expert, gates and up projections being of different formats, or orders of columns.
    Apart(Vec<PackedWeight>, Vec<PackedWeight>),
}

impl GateUp {
    /// Stacks each expert's two projections if their formats allow it.
    pub(crate) fn new(gates: Vec<PackedWeight>, ups: Vec<PackedWeight>) -> Result<Self, Error> {
        if !gates.iter().zip(&ups).all(|(g, u)| g.stacks_with(u)) {
            return Ok(Self::Apart(gates, ups));
        }
        let pairs = gates.into_iter().zip(ups);
        let stacked = pairs.map(|(gate, up)| PackedWeight::stack(vec![gate, up]));
        stacked.collect::<Result<_, _>>().map(Self::Stacked)
    }

    /// `silu(gate(x)) * up(x)` of rows sorted by expert. `out` becomes `[rows, inner]`; `side`: scratch.
    fn forward(&self, cx: &Cx, x: &Rows, routing: &Routing, (side, out): (&mut Rows, &mut Rows)) {
        match self {
            Self::Stacked(weights) => {
                linear_by_expert(cx, x, routing, weights, Then::SiluMul, out);
            }
            Self::Apart(gates, ups) => {
                linear_by_expert(cx, x, routing, gates, Then::Store, out);
                linear_by_expert(cx, x, routing, ups, Then::Store, side);
                silu_mul(cx, out, side);
            }
        }
    }
}

impl Experts {
    /// As [`super::mlp::Mlp::forward`].
    pub(crate) fn forward(&self, cx: &Cx, then: Then, work: &mut Workspace) {
        let w = work;
        // [tokens, experts]
        self.router
            .forward(cx, &w.normed, Then::Store, &mut w.side, &mut w.qkv);
        route(cx, &mut w.qkv, self.top_k, self.renormalise, &mut w.routing);
        // [tokens * top_k, hidden], then [tokens * top_k, inner], then [tokens * top_k, hidden]
        spread(cx, &w.normed, &w.routing, &mut w.qkv);
        let inner = (&mut w.side, &mut w.inner);
        self.gate_up.forward(cx, &w.qkv, &w.routing, inner);
        linear_by_expert(
            cx,
            &w.inner,
            &w.routing,
            &self.down,
            Then::Store,
            &mut w.qkv,
        );
        let (then, out) = match then {
            Then::Add => (Then::Add, &mut w.hidden),
            _ => (Then::Store, &mut w.attended),
        };
        combine(cx, &w.qkv, &w.routing, then, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use koma_kernels::{Class, Format, Isa, Team};
    use std::sync::Arc;

    fn weight(format: Format, rows: usize, cols: usize, seed: f32) -> PackedWeight {
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * seed).sin()).collect();
        PackedWeight::from_f32(rows, cols, format, &values).unwrap()
    }

    fn experts(up: Format) -> Experts {
        let all = |format, rows, cols, seed: f32| -> Vec<_> {
            let each = |e: usize| weight(format, rows, cols, seed + e as f32);
            (0..3).map(each).collect()
        };
        let router = Arc::new(weight(Format::F32, 3, 4, 0.9));
        Experts {
            router: Linear::shared(router),
            gate_up: GateUp::new(all(Format::F32, 6, 4, 0.7), all(up, 6, 4, 0.3)).unwrap(),
            down: all(Format::F32, 4, 6, 0.5),
            top_k: 2,
            renormalise: true,
        }
    }

    /// Projections of two formats stand apart and compute what stacked ones do; `Store` leaves what `Add` adds.
    #[test]
    fn projections_of_different_formats_stand_apart() {
        let cx = Cx::new(Arc::new(Team::new(1)), Class::Throughput, Isa::Portable);
        let x = Rows::from_vec(4, (0..20).map(|i| (i as f32 * 1.3).cos()).collect());
        let run = |up, then| {
            let mut work = Workspace {
                normed: x.clone(),
                hidden: Rows::from_vec(4, vec![0.0; 20]),
                attended: Rows::from_vec(4, vec![7.0; 20]),
                ..Workspace::default()
            };
            experts(up).forward(&cx, then, &mut work);
            (work.hidden, work.attended)
        };
        assert!(matches!(experts(Format::F32).gate_up, GateUp::Stacked(_)));
        assert!(matches!(experts(Format::F16).gate_up, GateUp::Apart(..)));
        let stacked = run(Format::F32, Then::Add).0;
        assert_eq!(
            run(Format::F32, Then::Store).1.as_slice(),
            stacked.as_slice()
        );
        let apart = run(Format::F16, Then::Add).0;
        let off = stacked.as_slice().iter().zip(apart.as_slice());
        let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // f16 keeps 11 bits of values up to 1.
        assert!(off > 0.0 && off < 5e-3, "{off}");
    }
}
