//! The naive body of every operation: plain loops, sums in f64, no packing, no threads. Tests and benches compare with
//! these; nothing else uses them.
//!
//! They round what the fast bodies round (activations to int8 blocks or bf16, keys and values as the cache stores them), but
//! for the exponentials of attention over bf16 and int8; so what is left between the two is the order of sums.

use crate::{
    AttnMeta, AttnSpec, Code, Epilogue, Format, Groups, HeadLayout, KvLayer, PackedWeight, Pooling,
    RopeTable, Rows, Then,
};
use half::bf16;

mod formats;

pub use formats::{dequantize, tame};

/// The value of a code of a grouped weight. An e4m3 is `(-1)^s 2^(e-7) (1 + m/8)`, or `(-1)^s 2^-6 m/8` for `e = 0` (OCP
/// 8-bit floating point 1.0, table 1).
pub fn grouped(code: Code, bits: u8, scale: f32, zero: i16) -> f32 {
    let value = match code {
        Code::Int4 | Code::Int8 => f32::from(i16::from(bits as i8) - zero),
        Code::Fp8 => {
            let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7) / 8.0);
            let size = match exponent {
                0 => mantissa * 2f32.powi(-6),
                _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
            };
            if bits & 0x80 == 0 { size } else { -size }
        }
    };
    scale * value
}

/// The activations that a product with a weight in `format` sees: as they are, rounded to bf16, or rounded to 127 steps of
/// the largest of each 32 (INT8: to 254 steps from the least to the largest of a row).
pub fn round_activations(format: Format, x: &[f32]) -> Vec<f64> {
    match format {
        Format::F32
        | Format::F16
        | Format::Grouped(Groups {
            code: Code::Fp8, ..
        }) => x.iter().copied().map(f64::from).collect(),
        Format::Bf16 => x.iter().map(|v| bf16::from_f32(*v).to_f64()).collect(),
        Format::Int8 => round_row(x),
        _ => x
            .chunks(32)
            .flat_map(|block| {
                let max = block.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
                let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
                let value = move |v: &f32| {
                    f64::from((v * inverse).round_ties_even()) * f64::from(max / 127.0)
                };
                block.iter().map(value)
            })
            .collect(),
    }
}

/// Each value as a whole number of steps from the row's zero, itself a whole number of them from the least. Factor and zero are in
/// f32, as the rounding depends on them.
fn round_row(x: &[f32]) -> Vec<f64> {
    let least = x.iter().fold(0.0, |m: f32, v| m.min(*v));
    let most = x.iter().fold(0.0, |m: f32, v| m.max(*v));
    let scale = most / 254.0 - least / 254.0;
    if scale == 0.0 {
        return vec![0.0; x.len()];
    }
    let factor = 1.0 / scale;
    let zero = (-127.0 - least * factor).round_ties_even();
    let value = |v: &f32| {
        let code = (v * factor + zero).round_ties_even().clamp(-127.0, 127.0);
        f64::from(code - zero) * f64::from(scale)
    };
    x.iter().map(value).collect()
}

/// As [`crate::linear`].
pub fn linear(x: &Rows, weight: &PackedWeight, epilogue: Epilogue<'_>, out: &mut Rows) {
    let n = weight.rows();
    let width = if epilogue.then.is_gated() { n / 2 } else { n };
    if epilogue.then != Then::Add {
        out.reset(x.rows(), width);
    }
    let mut full = vec![0.0; x.rows() * n];
    let rounded: Vec<_> = (0..x.rows())
        .map(|r| round_activations(weight.format(), x.row(r)))
        .collect();
    let mut row = vec![0.0; weight.cols()];
    for o in 0..n {
        weight.dequantize_row(o, &mut row);
        for (r, x) in rounded.iter().enumerate() {
            let dot: f64 = x.iter().zip(&row).map(|(a, b)| a * f64::from(*b)).sum();
            full[r * n + o] = dot + epilogue.bias.map_or(0.0, |b| f64::from(b[o]));
        }
    }
    for (r, y) in full.chunks_exact(n.max(1)).enumerate() {
        for (o, out) in out.row_mut(r).iter_mut().enumerate() {
            *out = match epilogue.then {
                Then::Store => y[o],
                Then::Add => f64::from(*out) + y[o],
                Then::GeluErf => gelu_erf(y[o]),
                Then::GeluTanh => gelu_tanh(y[o]),
                Then::Relu => y[o].max(0.0),
                Then::Tanh => y[o].tanh(),
                Then::SiluMul => silu(y[o]) * y[o + width],
                Then::GeluErfMul => gelu_erf(y[o]) * y[o + width],
                Then::GeluTanhMul => gelu_tanh(y[o]) * y[o + width],
            } as f32;
        }
    }
}

/// The experts of one token and their weights, as [`crate::route`].
pub fn route(logits: &[f32], top_k: usize, renormalise: bool) -> Vec<(usize, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = |v: &f32| (f64::from(*v) - f64::from(max)).exp();
    let sum: f64 = logits.iter().map(exp).sum();
    let mut all: Vec<_> = logits.iter().map(|v| exp(v) / sum).enumerate().collect();
    // Stable: of equal ones the first.
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(top_k);
    let kept: f64 = all.iter().map(|(_, p)| p).sum();
    if renormalise {
        for (_, p) in &mut all {
            *p /= kept;
        }
    }
    all
}

/// A whole layer, token by token: `out += sum of weight * down(silu(gate(x)) * up(x))` over each token's experts. `gate_up`:
/// for each expert the rows `[gate; up]`. As [`crate::route`], [`crate::spread`], [`crate::linear_by_expert`] twice and
/// [`crate::combine`].
pub fn experts(
    (x, logits): (&Rows, &Rows),
    (top_k, renormalise): (usize, bool),
    gate_up: &[PackedWeight],
    down: &[PackedWeight],
    out: &mut Rows,
) {
    let (mut inner, mut answer) = (Rows::new(), Rows::new());
    for t in 0..x.rows() {
        let token = Rows::from_vec(x.width(), x.row(t).to_vec());
        let mut sum = vec![0.0; out.width()];
        for (e, weight) in route(logits.row(t), top_k, renormalise) {
            linear(
                &token,
                &gate_up[e],
                Epilogue::then(Then::SiluMul),
                &mut inner,
            );
            linear(&inner, &down[e], Epilogue::default(), &mut answer);
            for (s, v) in sum.iter_mut().zip(answer.row(0)) {
                *s += weight * f64::from(*v);
            }
        }
        for (o, s) in out.row_mut(t).iter_mut().zip(sum) {
            *o = (f64::from(*o) + s) as f32;
        }
    }
}

/// Exact GELU.
pub fn gelu_erf(x: f64) -> f64 {
    0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// The tanh form of GELU.
pub fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// `SiLU`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `1 - erf(x)`: the series of erf near 0, the continued fraction (Abramowitz and Stegun 7.1.14) elsewhere.
pub fn erfc(x: f64) -> f64 {
    let a = x.abs();
    let positive = if a < 2.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        1.0 - std::f64::consts::FRAC_2_SQRT_PI * sum
    } else {
        let fraction = (1..=120)
            .rev()
            .fold(0.0, |f, k| f64::from(k) / 2.0 / (a + f));
        (-a * a).exp() / (a + fraction) * std::f64::consts::FRAC_2_SQRT_PI / 2.0
    };
    if x < 0.0 { 2.0 - positive } else { positive }
}

/// As [`crate::rms_norm`].
pub fn rms_norm(x: &Rows, weight: &[f32], eps: f32, out: &mut Rows) {
    out.reset(x.rows(), x.width());
    for r in 0..x.rows() {
        let row = x.row(r);
        let sum: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
        let scale = 1.0 / (sum / row.len() as f64 + f64::from(eps)).sqrt();
        for ((o, v), w) in out.row_mut(r).iter_mut().zip(row).zip(weight) {
            *o = (f64::from(*v) * scale * f64::from(*w)) as f32;
        }
    }
}

/// As [`crate::rms_norm_add`].
pub fn rms_norm_add(x: &Rows, weight: &[f32], eps: f32, out: &mut Rows) {
    let mut normed = Rows::new();
    rms_norm(x, weight, eps, &mut normed);
    let pairs = out.as_mut_slice().iter_mut().zip(normed.as_slice());
    pairs.for_each(|(o, n)| *o += n);
}

/// As [`crate::rms_norm_heads`].
pub fn rms_norm_heads(
    qkv: &mut Rows,
    layout: &HeadLayout,
    (query, key): (&[f32], &[f32]),
    eps: f32,
) {
    let heads = (layout.q_heads + layout.kv_heads) * layout.k_dim;
    for r in 0..qkv.rows() {
        let each = qkv.row_mut(r)[..heads].chunks_exact_mut(layout.k_dim);
        for (i, head) in each.enumerate() {
            let weight = if i < layout.q_heads { query } else { key };
            let mut out = Rows::new();
            rms_norm(
                &Rows::from_vec(layout.k_dim, head.to_vec()),
                weight,
                eps,
                &mut out,
            );
            head.copy_from_slice(out.as_slice());
        }
    }
}

/// As [`crate::silu_mul`].
pub fn silu_mul(gate: &mut Rows, up: &Rows) {
    for (gate, up) in gate.as_mut_slice().iter_mut().zip(up.as_slice()) {
        *gate = (silu(f64::from(*gate)) * f64::from(*up)) as f32;
    }
}

/// As [`crate::soft_cap`].
pub fn soft_cap(x: &mut Rows, cap: f32) {
    for v in x.as_mut_slice() {
        *v = (f64::from(cap) * (f64::from(*v) / f64::from(cap)).tanh()) as f32;
    }
}

/// As [`crate::layer_norm`].
pub fn layer_norm(x: &mut Rows, weight: &[f32], bias: &[f32], eps: f32) {
    for r in 0..x.rows() {
        let row = x.row_mut(r);
        let n = row.len() as f64;
        let mean = row.iter().copied().map(f64::from).sum::<f64>() / n;
        let var = row
            .iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>()
            / n;
        let scale = 1.0 / (var + f64::from(eps)).sqrt();
        for ((v, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *v = ((f64::from(*v) - mean) * scale * f64::from(*w) + f64::from(*b)) as f32;
        }
    }
}

/// As [`crate::recurrent::mix_states`], of one request: the digests after each of `values`, from the state `(digest, tokens)` on.
pub fn mix_states((mut digest, tokens): (u64, u64), values: &[u64]) -> Vec<u64> {
    let each = (tokens..).zip(values).map(|(count, value)| {
        let mixed = [count, *value]
            .into_iter()
            .fold(digest, crate::recurrent::mix);
        digest = mixed % 65_536;
        digest
    });
    each.collect()
}

/// As [`crate::add_rows`].
pub fn add_rows(from: &Rows, out: &mut Rows) {
    for r in 0..out.rows() {
        let from = from.row(r % from.rows()).to_vec();
        let row = out.row_mut(r).iter_mut().zip(from);
        row.for_each(|(o, v)| *o = (f64::from(*o) + f64::from(v)) as f32);
    }
}

/// As [`crate::pool`]: each mode by its definition.
pub fn pool(
    modes: &[Pooling],
    hidden: &Rows,
    (cu_seqlens, skips): (&[u32], &[u32]),
    out: &mut Rows,
) {
    let width = hidden.width();
    out.reset(cu_seqlens.len() - 1, modes.len() * width);
    for (i, ends) in cu_seqlens.windows(2).enumerate() {
        let start = ends[0] as usize;
        let first = start + skips.get(i).map_or(0, |skip| *skip as usize);
        for (m, mode) in modes.iter().enumerate() {
            for d in 0..width {
                let values = (first..ends[1] as usize).map(|r| f64::from(hidden.row(r)[d]));
                let weights = (first..ends[1] as usize).map(|r| (r - start + 1) as f64);
                let count = values.len() as f64;
                let value = match mode {
                    Pooling::Cls => values.take(1).sum(),
                    Pooling::Last => values.rev().take(1).sum(),
                    Pooling::Max => values.fold(f64::NEG_INFINITY, f64::max),
                    Pooling::Mean => values.sum::<f64>() / count,
                    Pooling::MeanSqrtLen => values.sum::<f64>() / count.sqrt(),
                    Pooling::WeightedMean => {
                        let sum: f64 = values.zip(weights.clone()).map(|(v, w)| v * w).sum();
                        sum / weights.sum::<f64>()
                    }
                };
                out.row_mut(i)[m * width + d] = value as f32;
            }
        }
    }
}

/// As [`crate::rope_angles`].
pub fn rope_angles(positions: &[u32], table: &RopeTable, out: &mut Rows) {
    let half = table.inv_freq.len();
    out.reset(positions.len(), 2 * half);
    for (r, &p) in positions.iter().enumerate() {
        for (i, f) in table.inv_freq.iter().enumerate() {
            let angle = f64::from(p as f32 * f);
            out.row_mut(r)[i] = (angle.cos() * f64::from(table.scale)) as f32;
            out.row_mut(r)[half + i] = (angle.sin() * f64::from(table.scale)) as f32;
        }
    }
}

/// As [`crate::rope`].
pub fn rope(qkv: &mut Rows, layout: &HeadLayout, angles: &Rows, interleaved: bool) {
    let half = angles.width() / 2;
    for r in 0..qkv.rows() {
        let (cos, sin) = angles.row(r).split_at(half);
        let heads = &mut qkv.row_mut(r)[..(layout.q_heads + layout.kv_heads) * layout.k_dim];
        for head in heads.chunks_exact_mut(layout.k_dim) {
            for i in 0..half {
                let (a, b) = if interleaved {
                    (2 * i, 2 * i + 1)
                } else {
                    (i, i + half)
                };
                let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                head[a] = (x * c - y * s) as f32;
                head[b] = (y * c + x * s) as f32;
            }
        }
    }
}

/// As [`crate::paged`].
pub fn paged(qkv: &Rows, kv: &KvLayer<'_>, meta: &AttnMeta<'_>, spec: &AttnSpec, out: &mut Rows) {
    let layout = spec.layout;
    out.reset(qkv.rows(), layout.out_width());
    let size = kv.block_size();
    for (i, bounds) in meta.cu_seqlens.windows(2).enumerate() {
        let (table, len) = (meta.tables.table(i), meta.kv_lens[i] as usize);
        let position = |r: usize| len - (bounds[1] as usize - r);
        let first = |r: usize| {
            spec.window
                .map_or(0, |w| (position(r) + 1).saturating_sub(w))
        };
        let rows = bounds[0] as usize..bounds[1] as usize;
        let (seen, group) = (first(rows.start), layout.q_heads / layout.kv_heads);
        for kv_head in 0..layout.kv_heads {
            let token = |t: usize| {
                let slot = table[t / size] as usize * size + t % size;
                let (mut k, mut v) = (vec![0.0; layout.k_dim], vec![0.0; layout.v_dim]);
                kv.read_key(slot, kv_head, &mut k);
                kv.read_value(slot, kv_head, &mut v);
                (k, v)
            };
            // Nobody sees an earlier token: its block may have been freed.
            let tokens = if rows.is_empty() {
                seen..seen
            } else {
                seen..len
            };
            let context: Vec<_> = tokens.map(token).collect();
            for r in rows.clone() {
                let context = &context[first(r) - seen..=position(r) - seen];
                for head in kv_head * group..(kv_head + 1) * group {
                    let o = &mut out.row_mut(r)[head * layout.v_dim..(head + 1) * layout.v_dim];
                    attend(layout.query(qkv.row(r), head), spec, context, o);
                }
            }
        }
    }
}

/// As [`crate::varlen`].
pub fn varlen(qkv: &Rows, cu_seqlens: &[u32], spec: &AttnSpec, out: &mut Rows) {
    let layout = spec.layout;
    out.reset(qkv.rows(), layout.out_width());
    for bounds in cu_seqlens.windows(2) {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        for r in start..end {
            let window = spec.window.unwrap_or(end);
            let first = start.max((r + 1).saturating_sub(window));
            let last = if spec.causal {
                r + 1
            } else {
                end.min(r.saturating_add(window))
            };
            for head in 0..layout.q_heads {
                let kv_head = head / (layout.q_heads / layout.kv_heads);
                let row = |t: usize| {
                    let row = qkv.row(t);
                    (
                        layout.key(row, kv_head).to_vec(),
                        layout.value(row, kv_head).to_vec(),
                    )
                };
                let context: Vec<_> = (first..last).map(row).collect();
                let o = &mut out.row_mut(r)[head * layout.v_dim..(head + 1) * layout.v_dim];
                attend(layout.query(qkv.row(r), head), spec, &context, o);
            }
        }
    }
}

/// `softmax(scale * q k^T) v` for one query and head, the scaled products capped if there is a cap.
fn attend(q: &[f32], spec: &AttnSpec, context: &[(Vec<f32>, Vec<f32>)], out: &mut [f32]) {
    let dot = |k: &[f32]| -> f64 {
        let products = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b));
        let score = f64::from(spec.scale) * products.sum::<f64>();
        match spec.cap.map(f64::from) {
            Some(cap) => cap * (score / cap).tanh(),
            None => score,
        }
    };
    let scores: Vec<f64> = context.iter().map(|(k, _)| dot(k)).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    for (i, o) in out.iter_mut().enumerate() {
        let values = weights.iter().zip(context);
        let mixed: f64 = values.map(|(p, (_, v))| p * f64::from(v[i])).sum();
        *o = (mixed / sum) as f32;
    }
}
