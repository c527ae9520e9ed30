//! [`Rates`]: how long products and attention of given shapes take, measured on values of no meaning.
//!
//! Invariant: a product reads its weights from where the model's will be: from memory if all weights together are more than
//! the caches hold, else from the caches.

use super::{FormatRate, Step};
use crate::sampler::{Noise, Sampler};
use crate::{SamplingOptions, SamplingParams, logits};
use koma_models::kernels::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, Class, Cx, Epilogue, Error, Format, GroupKind,
    Isa, KvCache, KvDtype, Op, PackedWeight, Rows, Team, Then, linear, paged, varlen, write_kv,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Weights of a shape that are gone through in turn, in bytes: more than caches hold.
const WEIGHTS: f64 = 160e6;
/// Cache that is gone through in turn, in bytes.
const CACHE: usize = 64 << 20;
/// Most rows that a product is measured with; with more it takes in proportion.
const ROWS: usize = 192;
/// Time for each measurement.
const TIME: Duration = Duration::from_millis(40);

/// A product, but for its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    format: Format,
    outputs: usize,
    cols: usize,
    then: Then,
}

/// Attention, but for its lengths.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    spec: AttnSpec,
    cache: Option<KvDtype>,
    /// One query for each request.
    single: bool,
}

/// Seconds of what was measured.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Shape, rows, seconds of one product.
    products: Vec<(Shape, usize, f64)>,
    /// Seconds of an operation.
    attention: Vec<(Look, f64)>,
    /// Seconds of a row of logits.
    pub(super) sampling: f64,
}

impl Rates {
    /// Measures every operation of `steps`.
    pub(super) fn measure(
        steps: &[&Step],
        block_size: usize,
        (team, isa): (&Arc<Team>, Isa),
    ) -> Result<Self, Error> {
        let cx = Cx::new(Arc::clone(team), Class::Throughput, isa);
        let mut rates = Self::default();
        let bytes = steps
            .iter()
            .map(|step| step.weight_bytes())
            .fold(0.0, f64::max);
        let mut shapes: Vec<(Shape, Vec<usize>)> = Vec::new();
        for (op, count) in steps.iter().flat_map(|step| &step.operations) {
            match op {
                Op::Product { rows, .. } => {
                    let shape = Shape::of(op);
                    let known = shapes.iter_mut().find(|(known, _)| Some(*known) == shape);
                    match (known, shape) {
                        (Some((_, all)), _) if !all.contains(rows) => all.push(*rows),
                        (None, Some(shape)) => shapes.push((shape, vec![*rows])),
                        _ => {}
                    }
                }
                Op::Attention { spec, lens, cache } => {
                    let look = Look::of(spec, lens, *cache);
                    if rates.attention.iter().all(|(known, _)| *known != look) {
                        let each = attention(&cx, &look, (lens, *count), block_size)?;
                        rates.attention.push((look, each));
                    }
                }
            }
        }
        for (shape, all) in shapes {
            let seconds = products(&cx, shape, &all, bytes)?;
            let one = |(rows, seconds)| (shape, rows, seconds);
            rates.products.extend(all.into_iter().zip(seconds).map(one));
        }
        Ok(rates)
    }

    /// Seconds of `op`; what was not measured takes none.
    pub(super) fn seconds(&self, op: &Op) -> f64 {
        match op {
            Op::Product { rows, .. } => {
                let shape = Shape::of(op);
                let measured = self.products.iter();
                let found = measured
                    .clone()
                    .find(|(s, r, _)| Some(*s) == shape && r == rows);
                found.map_or(0.0, |(_, _, seconds)| *seconds)
            }
            Op::Attention { spec, lens, cache } => {
                let look = Look::of(spec, lens, *cache);
                let found = self.attention.iter().find(|(known, _)| *known == look);
                found.map_or(0.0, |(_, each)| each * op.operations())
            }
        }
    }

    /// The most that products of each format reached.
    pub(super) fn formats(&self) -> Vec<FormatRate> {
        let mut all: Vec<FormatRate> = Vec::new();
        for (shape, rows, seconds) in &self.products {
            let op = shape.with_rows(*rows);
            let (bytes, operations) = (op.bytes() / seconds, op.operations() / seconds);
            let known = all.iter().position(|rate| rate.format == shape.format);
            let at = known.unwrap_or_else(|| {
                all.push(FormatRate {
                    format: shape.format,
                    bytes: 0.0,
                    operations: 0.0,
                });
                all.len() - 1
            });
            let rate = &mut all[at];
            rate.bytes = rate.bytes.max(bytes);
            rate.operations = rate.operations.max(operations);
        }
        all
    }
}

impl Shape {
    fn of(op: &Op) -> Option<Self> {
        match *op {
            Op::Product {
                format,
                outputs,
                cols,
                then,
                ..
            } => Some(Self {
                format,
                outputs,
                cols,
                then,
            }),
            Op::Attention { .. } => None,
        }
    }

    fn with_rows(self, rows: usize) -> Op {
        Op::Product {
            format: self.format,
            rows,
            outputs: self.outputs,
            cols: self.cols,
            then: self.then,
        }
    }
}

impl Look {
    fn of(spec: &AttnSpec, lens: &[(usize, usize)], cache: Option<KvDtype>) -> Self {
        Self {
            spec: *spec,
            cache,
            single: lens.iter().all(|(queries, _)| *queries == 1),
        }
    }
}

/// The median time of `work`, which is told how often it has run; the first run does not count.
fn median(mut work: impl FnMut(usize)) -> f64 {
    work(0);
    let (started, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || (started.elapsed() < TIME && times.len() < 100_000) {
        let begun = Instant::now();
        work(times.len() + 1);
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Seconds of a product of `shape` with each number of rows, in a model whose weights take `bytes`.
fn products(cx: &Cx, shape: Shape, rows: &[usize], bytes: f64) -> Result<Vec<f64>, Error> {
    let Shape {
        format,
        outputs,
        cols,
        then,
    } = shape;
    let each = PackedWeight::hollow(outputs, cols, format)?.bytes().max(1);
    let count = (bytes.min(WEIGHTS) / each as f64).ceil().max(1.0) as usize;
    let weights = (0..count)
        .map(|_| PackedWeight::filled(outputs, cols, format))
        .collect::<Result<Vec<_>, _>>()?;
    let one = |rows: &usize| {
        let measured = (*rows).min(ROWS);
        let values = (0..measured * cols).map(|i| (i % 13) as f32 * 0.125 - 0.75);
        let x = Rows::from_vec(cols, values.collect());
        let mut out = Rows::new();
        let width = if then.is_gated() {
            outputs / 2
        } else {
            outputs
        };
        out.reset(measured, width);
        let seconds = median(|turn| {
            linear(
                cx,
                &x,
                &weights[turn % count],
                Epilogue::then(then),
                &mut out,
            );
        });
        seconds * *rows as f64 / measured as f64
    };
    Ok(rows.iter().map(one).collect())
}

/// Seconds of an operation of attention over these lengths, in a model with `layers` such layers.
fn attention(
    cx: &Cx,
    look: &Look,
    (lens, layers): (&[(usize, usize)], usize),
    block_size: usize,
) -> Result<f64, Error> {
    let layout = look.spec.layout;
    let token =
        layout.kv_heads * (layout.k_dim + layout.v_dim) * look.cache.map_or(4, KvDtype::bytes);
    // As many requests as the bound allows, at least one.
    let mut tokens = 0;
    let fits = |(_, all): &&(usize, usize)| {
        tokens += all;
        tokens == *all || tokens * token <= CACHE
    };
    let lens: Vec<(usize, usize)> = lens.iter().take_while(fits).copied().collect();
    let op = Op::Attention {
        spec: look.spec,
        lens: lens.clone(),
        cache: look.cache,
    };
    let starts = std::iter::once(0).chain(lens.iter().scan(0, |sum, (queries, _)| {
        *sum += *queries as u32;
        Some(*sum)
    }));
    let starts: Vec<u32> = starts.collect();
    let rows = starts.last().copied().unwrap_or(0) as usize;
    let values = |rows: usize| {
        let values = (0..rows * layout.qkv_width()).map(|i| (i % 11) as f32 * 0.0625 - 0.3125);
        Rows::from_vec(layout.qkv_width(), values.collect())
    };
    let (qkv, mut out) = (values(rows), Rows::new());
    let Some(dtype) = look.cache else {
        let seconds = median(|_| varlen(cx, &qkv, &starts, &look.spec, &mut out));
        return Ok(seconds / op.operations());
    };
    let mut tables = BlockTables::default();
    tables.clear();
    let mut blocks = 0;
    for (_, all) in &lens {
        let end = blocks + all.div_ceil(block_size) as u32;
        tables.push(blocks..end);
        blocks = end;
    }
    let bytes = blocks as usize * block_size * token;
    let layers = (CACHE / bytes.max(1)).clamp(1, layers);
    let kind = GroupKind::Full(layout);
    let group = CacheGroup { kind, layers };
    let mut cache = KvCache::new(&[group], blocks as usize, block_size, dtype)?;
    // Memory that was never written is not read as other memory is.
    let piece = values(block_size);
    for layer in 0..layers {
        for block in 0..blocks {
            let first = block * block_size as u32;
            let slots: Vec<u32> = (first..first + block_size as u32).collect();
            write_kv(cx, &piece, cache.layer(0, layer), &slots);
        }
    }
    let kv_lens: Vec<u32> = lens.iter().map(|(_, all)| *all as u32).collect();
    let meta = AttnMeta {
        cu_seqlens: &starts,
        kv_lens: &kv_lens,
        tables: &tables,
    };
    let seconds = median(|turn| {
        let layer = cache.layer(0, turn % layers);
        paged(cx, &qkv, layer, &meta, &look.spec, &mut out);
    });
    Ok(seconds / op.operations())
}

/// Seconds that a row of `vocab` logits takes to become a token.
pub(super) fn sampling(vocab: usize) -> f64 {
    let options = SamplingOptions {
        temperature: Some(0.0),
        ignore_eos: true,
        ..SamplingOptions::default()
    };
    let Ok(params) = SamplingParams::new(&options, vocab) else {
        return 0.0;
    };
    let noise = Noise {
        seed: 0,
        child: 0,
        position: 0,
    };
    let mut row: Vec<f32> = (0..vocab).map(|i| (i % 101) as f32).collect();
    let mut sampler = Sampler::default();
    median(|_| {
        if logits::is_finite(&row) {
            logits::mask(&mut row, &params, &[], 0);
            std::hint::black_box(sampler.sample(&row, &params, noise));
        }
    })
}
