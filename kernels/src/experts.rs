//! A layer of experts (Shazeer et al., arXiv:1701.06538; as in Mixtral, arXiv:2401.04088): every token goes through the few
//! experts that a router picks for it. [`route`] picks, [`spread`] sorts the tokens by expert, [`linear_by_expert`] is one
//! product of all experts, [`combine`] brings the answers back.
//!
//! Invariant: a token's experts, their weights and the order of their sum (from the heaviest to the lightest) depend on
//! that token alone; so do, by [`crate::linear`]'s own promise, the products of its row.

use crate::cpu::experts::{Combine, Route};
use crate::cpu::isa::dispatch;
use crate::cpu::shared::Shared;
use crate::linear::grouped;
use crate::{Cx, Epilogue, PackedWeight, Rows, Then};

/// Which experts the tokens of a step go to. Buffers keep their memory from step to step.
#[derive(Debug, Default)]
pub struct Routing {
    /// Experts of each token.
    top_k: usize,
    /// Each token's experts, the likeliest first, `[tokens, top_k]`.
    chosen: Vec<u32>,
    /// Their weights, `[tokens, top_k]`.
    weights: Vec<f32>,
    /// Which of the rows sorted by expert is each token's, `[tokens, top_k]`.
    places: Vec<usize>,
    /// The token of each row sorted by expert, `[tokens * top_k]`.
    tokens: Vec<usize>,
    /// See [`Routing::starts`]; and one entry more, for sorting.
    starts: Vec<usize>,
}

impl Routing {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.chosen.len() / self.top_k.max(1)
    }

    /// The experts of token `t`, the likeliest first, and their weights.
    ///
    /// # Panics
    /// If there is no such token.
    #[track_caller]
    pub fn of(&self, t: usize) -> (&[u32], &[f32]) {
        let range = t * self.top_k..(t + 1) * self.top_k;
        (&self.chosen[range.clone()], &self.weights[range])
    }

    fn reset(&mut self, tokens: usize, experts: usize, top_k: usize) {
        let rows = tokens * top_k;
        self.top_k = top_k;
        self.chosen.resize(rows, 0);
        self.weights.resize(rows, 0.0);
        self.places.resize(rows, 0);
        self.tokens.resize(rows, 0);
        self.starts.clear();
        self.starts.resize(experts + 2, 0);
    }

    /// Sorts by expert, tokens of one expert in their order (a counting sort).
    fn sort(&mut self) {
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
            self.tokens[*next] = i / self.top_k;
            *next += 1;
        }
    }

    /// First row of each expert, and the end of the last, `[experts + 1]`.
    fn starts(&self) -> &[usize] {
        &self.starts[..self.starts.len() - 1]
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
    to.reset(tokens, experts, top_k);
    let rows = Shared::new(logits.as_mut_slice());
    let (chosen, weights) = (Shared::new(&mut to.chosen), Shared::new(&mut to.weights));
    cx.run_rows(tokens, experts * (top_k + 4), &|range| {
        let picks = range.start * top_k..range.end * top_k;
        // SAFETY: ranges of tokens do not overlap.
        let kernel = unsafe {
            Route {
                rows: rows.part(range.start * experts..range.end * experts),
                experts,
                chosen: chosen.part(picks.clone()),
                weights: weights.part(picks),
                top_k,
                renormalise,
            }
        };
        dispatch(cx.isa(), kernel);
    });
    to.sort();
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
    out.reset(routing.tokens.len(), width);
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::spread(stream, x, &routing.tokens, out);
    }
    let to = Shared::new(out.as_mut_slice());
    cx.run_rows(routing.tokens.len(), width, &|range| {
        for r in range {
            // SAFETY: a row belongs to one range.
            let to = unsafe { to.part(r * width..(r + 1) * width) };
            to.copy_from_slice(x.row(routing.tokens[r]));
        }
    });
}

/// The product of each row with the weight of its expert, then `then`; as [`crate::linear`]. `x`: `[tokens * top_k, cols]`
/// as [`spread`] sorts it; `weights`: one `[rows, cols]` for each expert.
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
    let groups = (routing.starts(), weights);
    grouped(cx, x, groups, Epilogue::then(then), out);
}

/// Adds to each token's row of `out` its experts' answers times their weights, from the likeliest expert on. `x`:
/// `[tokens * top_k, width]`, sorted by expert; `out`: `[tokens, width]`.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn combine(cx: &Cx, x: &Rows, routing: &Routing, out: &mut Rows) {
    let (top_k, width) = (routing.top_k, x.width());
    assert_eq!(x.rows(), routing.places.len(), "combine: rows");
    assert_eq!(
        (out.rows(), out.width()),
        (routing.tokens(), width),
        "combine: residual shape"
    );
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        let picks = (&routing.places[..], &routing.weights[..]);
        return crate::cuda::ops::combine(stream, x, picks, out);
    }
    let to = Shared::new(out.as_mut_slice());
    cx.run_rows(routing.tokens(), top_k * width, &|range| {
        for t in range {
            let picks = t * top_k..(t + 1) * top_k;
            let kernel = Combine {
                x: x.as_slice(),
                places: &routing.places[picks.clone()],
                weights: &routing.weights[picks],
                // SAFETY: a row belongs to one range.
                out: unsafe { to.part(t * width..(t + 1) * width) },
            };
            dispatch(cx.isa(), kernel);
        }
    });
}
