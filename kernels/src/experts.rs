//! A layer of experts (Shazeer et al., arXiv:1701.06538; as in Mixtral, arXiv:2401.04088): every token goes through the few
//! experts that a router picks for it. [`route`] picks, [`spread`] sorts the tokens by expert, [`linear_by_expert`] is one
//! product of all experts, [`combine`] brings the answers back.
//!
//! Invariant: a token's experts, their weights and the order of their sum (from the heaviest to the lightest) depend on
//! that token alone; so do, by [`crate::linear`]'s own promise, the products of its row.

use crate::cpu::experts::{Combine, Route};
use crate::cpu::isa::dispatch;
use crate::cpu::shared::Shared;
#[cfg(feature = "cuda")]
use crate::cuda::ops;
use crate::linear::grouped;
#[cfg(feature = "cuda")]
use crate::linear::shape;
use crate::{Cx, Epilogue, PackedWeight, Rows, Then};

/// Which experts the tokens of a step go to. Buffers keep their memory from step to step. What a device has picked stays there
/// until somebody asks for it here.
#[derive(Debug, Default)]
pub struct Routing {
    tokens: usize,
    /// Experts of each token.
    top_k: usize,
    /// What the host has picked.
    picks: Picks,
    /// What a device has, if it did.
    #[cfg(feature = "cuda")]
    device: Option<ops::DeviceRouting>,
}

/// Each token's experts, and its rows among those sorted by expert.
#[derive(Debug, Default)]
pub(crate) struct Picks {
    /// Each token's experts, the likeliest first, `[tokens, top_k]`.
    chosen: Vec<u32>,
    /// Their weights, `[tokens, top_k]`.
    weights: Vec<f32>,
    /// Which of the rows sorted by expert is each token's, `[tokens, top_k]`.
    places: Vec<usize>,
    /// The token of each row sorted by expert, `[tokens * top_k]`.
    tokens: Vec<usize>,
    /// See [`Picks::starts`]; and one entry more, for sorting.
    starts: Vec<usize>,
}

impl Picks {
    /// Of what a device has picked.
    #[cfg(feature = "cuda")]
    pub(crate) fn new(
        chosen: Vec<u32>,
        weights: Vec<f32>,
        (experts, top_k): (usize, usize),
    ) -> Self {
        let mut picks = Self {
            chosen,
            weights,
            ..Self::default()
        };
        picks.reset(picks.chosen.len(), experts);
        picks.sort(top_k);
        picks
    }

    fn reset(&mut self, rows: usize, experts: usize) {
        self.chosen.resize(rows, 0);
        self.weights.resize(rows, 0.0);
        self.places.resize(rows, 0);
        self.tokens.resize(rows, 0);
        self.starts.clear();
        self.starts.resize(experts + 2, 0);
    }

    /// Sorts by expert, tokens of one expert in their order (a counting sort).
    fn sort(&mut self, top_k: usize) {
        // `starts[e + 1]` moves from the first row of expert `e` to the first of the next one.
        for expert in &self.chosen {
            self.starts[*expert as usize + 2] += 1;
        }
        for e in 2..self.starts.len() {
            self.starts[e] += self.starts[e - 1];
        }
        for (i, (expert, place)) in self.chosen.iter().zip(&mut self.places).enumerate() {
            let next = &mut self.starts[*expert as usize + 1];
            *place = *next;
            self.tokens[*next] = i / top_k;
            *next += 1;
        }
    }

    /// First row of each expert, and the end of the last, `[experts + 1]`.
    fn starts(&self) -> &[usize] {
        &self.starts[..self.starts.len() - 1]
    }
}

impl Routing {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The experts of token `t`, the likeliest first, and their weights. Who asks waits for a device that has picked them.
    ///
    /// # Panics
    /// If there is no such token.
    #[track_caller]
    pub fn of(&self, t: usize) -> (&[u32], &[f32]) {
        let range = t * self.top_k..(t + 1) * self.top_k;
        let picks = self.picks();
        (&picks.chosen[range.clone()], &picks.weights[range])
    }

    /// Rows that go through an expert.
    fn rows(&self) -> usize {
        self.tokens * self.top_k
    }

    fn picks(&self) -> &Picks {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.device {
            return device.picks();
        }
        &self.picks
    }
}

/// Picks each token's `top_k` likeliest experts: softmax over all of them, the largest values (of equal ones the lower
/// numbers), divided by their sum if `renormalise`. `logits`: `[tokens, experts]`, afterwards the probabilities.
///
/// # Panics
/// If `top_k` is 0 or more than the experts.
#[track_caller]
pub fn route(cx: &Cx, logits: &mut Rows, top_k: usize, renormalise: bool, to: &mut Routing) {
    let (tokens, experts) = (logits.rows(), logits.width());
    assert!(
        (1..=experts).contains(&top_k),
        "route: {top_k} of {experts} experts"
    );
    (to.tokens, to.top_k) = (tokens, top_k);
    let picks = &mut to.picks;
    picks.reset(tokens * top_k, experts);
    #[cfg(feature = "cuda")]
    {
        to.device = cx
            .stream()
            .and_then(|stream| ops::route(stream, logits, top_k, renormalise));
        if cx.stream().is_some() {
            return;
        }
    }
    let rows = Shared::new(logits.as_mut_slice());
    let chosen = Shared::new(&mut picks.chosen);
    let weights = Shared::new(&mut picks.weights);
    cx.run_rows(tokens, experts * (top_k + 4), &|range| {
        let those = range.start * top_k..range.end * top_k;
        // SAFETY: ranges of tokens do not overlap.
        let kernel = unsafe {
            Route {
                rows: rows.part(range.start * experts..range.end * experts),
                experts,
                chosen: chosen.part(those.clone()),
                weights: weights.part(those),
                top_k,
                renormalise,
            }
        };
        dispatch(cx.isa(), kernel);
    });
    picks.sort(top_k);
}

/// Copies each token's row once for each of its experts, sorted by expert. `x`: `[tokens, width]`; `out` becomes
/// `[tokens * top_k, width]`.
///
/// # Panics
/// If `x` does not have the tokens of `routing`.
#[track_caller]
pub fn spread(cx: &Cx, x: &Rows, routing: &Routing, out: &mut Rows) {
    assert_eq!(x.rows(), routing.tokens(), "spread: tokens");
    let width = x.width();
    out.reset(routing.rows(), width);
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return ops::spread(stream, x, routing.device.as_ref(), out);
    }
    let tokens = &routing.picks().tokens;
    let to = Shared::new(out.as_mut_slice());
    cx.run_rows(tokens.len(), width, &|range| {
        for r in range {
            // SAFETY: a row belongs to one range.
            let to = unsafe { to.part(r * width..(r + 1) * width) };
            to.copy_from_slice(x.row(tokens[r]));
        }
    });
}

/// The product of each row with the weight of its expert, then `then`; as [`crate::linear`]. `x`: `[tokens * top_k, cols]`
/// as [`spread`] sorts it; `weights`: one `[rows, cols]` for each expert, on a device without activations of FP8
/// ([`PackedWeight::without_fp8_activations`]).
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn linear_by_expert(
    cx: &Cx,
    x: &Rows,
    routing: &Routing,
    weights: &[PackedWeight],
    then: Then,
    out: &mut Rows,
) {
    assert_eq!(x.rows(), routing.rows(), "linear_by_expert: rows");
    let epilogue = Epilogue::then(then);
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        shape(x, weights, epilogue, out);
        if out.rows() * out.width() > 0 {
            ops::by_expert(stream, x, (routing.device.as_ref(), weights), then, out);
        }
        return;
    }
    grouped(cx, x, (routing.picks().starts(), weights), epilogue, out);
}

/// Each token's experts' answers times their weights, summed from the likeliest expert on: added to its row of `out`
/// ([`Then::Add`]), or what `out` becomes ([`Then::Store`]). `x`: `[tokens * top_k, width]`, sorted by expert; `out`:
/// `[tokens, width]`.
///
/// # Panics
/// If the shapes do not agree, or for another `then`.
#[track_caller]
pub fn combine(cx: &Cx, x: &Rows, routing: &Routing, then: Then, out: &mut Rows) {
    let (top_k, width) = (routing.top_k, x.width());
    assert_eq!(x.rows(), routing.rows(), "combine: rows");
    assert!(matches!(then, Then::Add | Then::Store), "combine: {then:?}");
    let add = then == Then::Add;
    if add {
        let residual = (out.rows(), out.width());
        assert_eq!(
            residual,
            (routing.tokens(), width),
            "combine: residual shape"
        );
    } else {
        out.reset(routing.tokens(), width);
    }
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return ops::combine(stream, x, routing.device.as_ref(), add, out);
    }
    let all = routing.picks();
    let to = Shared::new(out.as_mut_slice());
    cx.run_rows(routing.tokens(), top_k * width, &|range| {
        for t in range {
            let picks = t * top_k..(t + 1) * top_k;
            let kernel = Combine {
                x: x.as_slice(),
                places: &all.places[picks.clone()],
                weights: &all.weights[picks],
                add,
                // SAFETY: a row belongs to one range.
                out: unsafe { to.part(t * width..(t + 1) * width) },
            };
            dispatch(cx.isa(), kernel);
        }
    });
}
