//! [`Op`]: the operations that take a forward's time, written down.
//!
//! A context made by [`Cx::tracing`] skips products and attention and keeps what they would have been, so that a model of
//! hollow weights can run through its layers: what it needs is known before anything is loaded. Everything else is done as
//! ever, on whatever values the buffers hold. One made by [`Cx::timing`] does them and keeps how long each took.

use crate::{AttnSpec, Class, Cx, Format, Isa, KvDtype, Team, Then};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One operation that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// [`crate::linear`], or the part of [`crate::linear_by_expert`] with one expert.
    Product {
        /// How the weight is stored.
        format: Format,
        /// Rows of activations.
        rows: usize,
        /// Rows of the weight.
        outputs: usize,
        /// Columns of both.
        cols: usize,
        /// What is done with the product.
        then: Then,
    },
    /// [`crate::paged`] or [`crate::varlen`].
    Attention {
        /// Heads and window.
        spec: AttnSpec,
        /// Queries of each request and tokens that they look back on, these included.
        lens: Vec<(usize, usize)>,
        /// How the cache is stored; none inside a batch.
        cache: Option<KvDtype>,
    },
}

impl Op {
    /// Operations: a multiply-add counts twice.
    pub fn operations(&self) -> f64 {
        match self {
            Self::Product {
                rows,
                outputs,
                cols,
                ..
            } => 2.0 * *rows as f64 * *outputs as f64 * *cols as f64,
            Self::Attention { spec, lens, .. } => {
                let layout = spec.layout;
                let each = 2.0 * (layout.q_heads * (layout.k_dim + layout.v_dim)) as f64;
                lens.iter().map(|len| each * seen(spec, *len)).sum()
            }
        }
    }

    /// Bytes of weights or of the cache that it reads, at least.
    pub fn bytes(&self) -> f64 {
        match self {
            Self::Product {
                format,
                outputs,
                cols,
                ..
            } => match format {
                // No file holds rows of these: what is read is what is packed.
                Format::Int8 | Format::Grouped(_) => (outputs * format.packed_bytes(*cols)) as f64,
                _ => (outputs * (cols / format.block_len()) * format.block_bytes()) as f64,
            },
            Self::Attention { spec, lens, cache } => {
                let layout = spec.layout;
                let (bytes, scales) = cache.map_or((4, 0), |kv| (kv.bytes(), kv.scale_bytes()));
                let each = layout.kv_heads * ((layout.k_dim + layout.v_dim) * bytes + scales);
                let window = spec.window.unwrap_or(usize::MAX);
                let tokens = lens
                    .iter()
                    .map(|(queries, all)| (*all).min(window.saturating_add(*queries)));
                tokens.map(|n| (n * each) as f64).sum()
            }
        }
    }
}

/// Pairs of a query and a token that it sees.
fn seen(spec: &AttnSpec, (queries, all): (usize, usize)) -> f64 {
    let window = spec.window.unwrap_or(usize::MAX);
    if !spec.causal {
        let each = all.min(window.saturating_mul(2).saturating_sub(1));
        return queries as f64 * each as f64;
    }
    let first = all.saturating_sub(queries) + 1;
    (first..=all).map(|sees| sees.min(window) as f64).sum()
}

/// What a context has written down.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// With the seconds that each took.
    ops: Mutex<Vec<(Op, f64)>>,
    /// Whether they are not done.
    skips: bool,
}

impl Cx {
    /// A context that writes products and attention down instead of doing them. What they would have written stays as it
    /// was.
    pub fn tracing(team: Arc<Team>, class: Class, isa: Isa) -> Self {
        let trace = Trace {
            skips: true,
            ..Trace::default()
        };
        Self::new(team, class, isa).with_trace(trace)
    }

    /// A context that writes products and attention down and does them.
    pub fn timing(team: Arc<Team>, class: Class, isa: Isa) -> Self {
        Self::new(team, class, isa).with_trace(Trace::default())
    }

    /// The operations since the last call, in their order, each with the seconds that it took (0 if it was not done).
    pub fn take_trace(&self) -> Vec<(Op, f64)> {
        let trace = self.trace.as_ref();
        trace.map_or_else(Vec::new, |trace| {
            std::mem::take(&mut *trace.ops.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }

    /// Whether operations are written down.
    pub fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Does `work`, which is the operations that `describe` tells; they are written down, or even skipped, where this context
    /// is for that.
    pub(crate) fn operation(&self, describe: impl FnOnce(&mut Vec<Op>), work: impl FnOnce()) {
        let Some(trace) = &self.trace else {
            return work();
        };
        let mut ops = Vec::new();
        describe(&mut ops);
        let mut seconds = 0.0;
        if !trace.skips {
            let begun = Instant::now();
            work();
            seconds = begun.elapsed().as_secs_f64() / ops.len().max(1) as f64;
        }
        let mut all = trace.ops.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(ops.into_iter().map(|op| (op, seconds)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epilogue, HeadLayout, PackedWeight, Rows, StandIns, linear, varlen};

    #[test]
    fn hollow_weights_can_be_traced_and_only_traced() {
        let team = Arc::new(Team::new(1));
        let cx = Cx::tracing(Arc::clone(&team), Class::Latency, Isa::detect());
        let weight = PackedWeight::hollow(10, 32, Format::Q4_1).unwrap();
        let x = Rows::from_vec(32, vec![1.0; 96]);
        let mut out = Rows::new();
        linear(&cx, &x, &weight, Epilogue::then(Then::Relu), &mut out);
        assert_eq!((out.rows(), out.width()), (3, 10));
        let product = Op::Product {
            format: Format::Q4_1,
            rows: 3,
            outputs: 10,
            cols: 32,
            then: Then::Relu,
        };
        assert_eq!(product.operations(), 2.0 * 3.0 * 320.0);
        assert_eq!(product.bytes(), 200.0);
        let groups = crate::Groups {
            code: crate::Code::Fp8,
            scale: crate::Scale::F32,
            zeros: false,
            cols: 32,
        };
        let grouped = Op::Product {
            format: Format::Grouped(groups),
            rows: 1,
            outputs: 10,
            cols: 32,
            then: Then::Store,
        };
        assert_eq!(grouped.bytes(), 10.0 * (32.0 + 4.0));
        assert_eq!(cx.take_trace(), [(product.clone(), 0.0)]);
        assert!(cx.take_trace().is_empty());
        let timing = Cx::timing(Arc::clone(&team), Class::Latency, Isa::detect());
        let lent = StandIns::new(1 << 12);
        let weight_of_values = lent.weight(10, 32, Format::Q4_1).unwrap();
        let then = Epilogue::then(Then::Relu);
        linear(&timing, &x, &weight_of_values, then, &mut out);
        assert!(matches!(timing.take_trace()[..], [(ref op, s)] if *op == product && s > 0.0));
        let real = Cx::new(team, Class::Latency, Isa::detect());
        let doing = std::panic::AssertUnwindSafe(|| {
            linear(&real, &x, &weight, Epilogue::default(), &mut Rows::new());
        });
        assert!(std::panic::catch_unwind(doing).is_err());
    }

    #[test]
    fn attention_counts_what_queries_see() {
        let layout = HeadLayout {
            q_heads: 4,
            kv_heads: 2,
            k_dim: 8,
            v_dim: 8,
        };
        let check = |causal, window, lens: &[(usize, usize)], pairs: f64, tokens: f64| {
            let spec = AttnSpec {
                layout,
                scale: 1.0,
                causal,
                window,
                cap: None,
                halves: false,
            };
            let op = Op::Attention {
                spec,
                lens: lens.to_vec(),
                cache: Some(KvDtype::Bf16),
            };
            assert_eq!(op.operations(), pairs * 4.0 * 16.0 * 2.0);
            assert_eq!(op.bytes(), tokens * 2.0 * 16.0 * 2.0);
            let Op::Attention { spec, lens, .. } = op else {
                unreachable!("it was made above")
            };
            let cache = Some(KvDtype::Int8);
            let op = Op::Attention { spec, lens, cache };
            assert_eq!(op.bytes(), tokens * 2.0 * (16.0 + 8.0), "with two scales");
        };
        check(true, None, &[(3, 3)], 6.0, 3.0);
        check(true, None, &[(1, 10), (2, 5)], 10.0 + 9.0, 15.0);
        check(true, Some(2), &[(3, 3)], 5.0, 3.0);
        check(true, Some(2), &[(1, 10)], 2.0, 3.0);
        check(false, None, &[(4, 4)], 16.0, 4.0);
        let cx = Cx::tracing(Arc::new(Team::new(1)), Class::Latency, Isa::detect());
        let qkv = Rows::from_vec(layout.qkv_width(), vec![0.0; 5 * layout.qkv_width()]);
        let spec = AttnSpec {
            layout,
            scale: 1.0,
            causal: false,
            window: None,
            cap: None,
            halves: false,
        };
        let mut out = Rows::new();
        varlen(&cx, &qkv, &[0, 2, 5], &spec, &mut out);
        assert_eq!((out.rows(), out.width()), (5, 32));
        let lens = vec![(2, 2), (3, 3)];
        let cache = None;
        assert_eq!(
            cx.take_trace(),
            [(Op::Attention { spec, lens, cache }, 0.0)]
        );
    }
}
