//! Every operation on the device against the processor, or against sums in f64 of the same values.

use super::{Line, Pair};
use koma_kernels::cuda::{Attend, Choice, Chooser, Way};
use koma_kernels::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, Cx, Epilogue, Error, Format, GroupKind,
    HeadLayout, KvCache, KvDtype, PackedWeight, RopeTable, Rows, StandIns, Then, embed,
    gather_rows, layer_norm, linear, paged, rms_norm, rope, rope_angles, scale_rows, soft_cap,
    varlen, varlen_one, write_kv,
};
use std::ops::Range;

/// Numbers from -1 to 1 (Marsaglia's xorshift).
pub(super) fn random(rows: usize, width: usize, seed: u64) -> Rows {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed + 1).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mut value = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Rows::from_vec(width, (0..rows * width).map(|_| value()).collect())
}

/// The largest distance, of the largest value.
pub(super) fn off(got: &[f32], expected: &[f32]) -> f64 {
    let most = expected.iter().fold(1e-6f32, |most, v| most.max(v.abs()));
    let far = |(g, e): (&f32, &f32)| {
        let far = (g - e).abs() / most;
        if far.is_nan() { f32::INFINITY } else { far }
    };
    f64::from(got.iter().zip(expected).map(far).fold(0.0, f32::max))
}

fn line(what: String, (got, expected): (&Rows, &Rows), bound: f64) -> Line {
    let same = (got.rows(), got.width()) == (expected.rows(), expected.width());
    let off = off(got.as_slice(), expected.as_slice());
    Line {
        what,
        right: Some(same && off <= bound),
        figures: vec![("off", off), ("bound", bound)],
    }
}

/// Runs `each` on both sides.
fn both(pair: &Pair, what: &str, bound: f64, each: impl Fn(&Cx, &mut Rows)) -> Result<Line, Error> {
    let (mut got, mut expected) = (Rows::new(), Rows::new());
    each(&pair.cpu, &mut expected);
    each(&pair.gpu, &mut got);
    pair.gpu.settle(&mut got)?;
    Ok(line(what.to_owned(), (&got, &expected), bound))
}

pub(super) fn check(pair: &Pair) -> Result<Vec<Line>, Error> {
    let mut lines = rows(pair)?;
    for format in [Format::F32, Format::F16, Format::Bf16] {
        // As where there is no cuBLASLt.
        pair.gpu.multiply_by(Some(Way::Tiled));
        let checked = products(pair, format, &mut lines);
        pair.gpu.multiply_by(None);
        checked?;
    }
    for format in Format::ALL {
        products(pair, format, &mut lines)?;
    }
    for dtype in [
        KvDtype::F32,
        KvDtype::Bf16,
        KvDtype::Int8,
        KvDtype::F16,
        KvDtype::Fp8,
    ] {
        if dtype != KvDtype::F32 {
            lines.push(chunks(pair, dtype)?);
        }
        // The prompt goes through tiles behind all caches but f32's, and bf16's where there is no bf16, in each width, and behind none
        // where heads are odd.
        for heads in [
            (8, 2, 64, 64),
            (4, 4, 128, 128),
            (4, 2, 256, 256),
            (3, 1, 80, 100),
        ] {
            for window in [None, Some(100)] {
                lines.push(attention(pair, heads, (dtype, window))?);
            }
        }
    }
    lines.extend(packed_attention(pair)?);
    lines.push(choices(pair)?);
    Ok(lines)
}

fn rows(pair: &Pair) -> Result<Vec<Line>, Error> {
    let x = random(70, 1000, 1);
    let (weight, bias) = (random(1, 1000, 2), random(1, 1000, 3));
    let (weight, bias) = (weight.as_slice(), bias.as_slice());
    let layout = HeadLayout {
        q_heads: 8,
        kv_heads: 2,
        k_dim: 64,
        v_dim: 64,
    };
    let qkv = random(70, layout.qkv_width(), 4);
    let table = RopeTable {
        inv_freq: (0..32).map(|i| 0.1f32.powf(i as f32 / 8.0)).collect(),
        scale: 1.0,
        interleaved: false,
    };
    let positions: Vec<u32> = (0..70).map(|i| i * 60).collect();
    Ok(vec![
        both(pair, "rms_norm", 1e-5, |cx, out| {
            rms_norm(cx, &x, weight, 1e-5, out);
        })?,
        both(pair, "layer_norm", 1e-5, |cx, out| {
            *out = x.clone();
            layer_norm(cx, out, weight, bias, 1e-5);
        })?,
        both(pair, "soft_cap", 1e-5, |cx, out| {
            *out = x.clone();
            soft_cap(cx, out, 0.7);
        })?,
        both(pair, "scale_rows", 0.0, |cx, out| {
            *out = x.clone();
            scale_rows(cx, out, 1.5);
        })?,
        both(pair, "gather_rows", 0.0, |cx, out| {
            gather_rows(cx, &x, &[69, 0, 0, 33], out);
        })?,
        both(pair, "rope", 1e-4, |cx, out| {
            let mut angles = Rows::new();
            rope_angles(cx, &positions, &table, &mut angles);
            *out = qkv.clone();
            rope(cx, out, &layout, &angles, false);
        })?,
    ])
}

/// Rows looked up bit for bit, and products of few rows, in tiles, and through cuBLASLt where it is found.
fn products(pair: &Pair, format: Format, lines: &mut Vec<Line>) -> Result<(), Error> {
    let (n, k) = (200, 1024);
    let weight = StandIns::new(1 << 20).weight(n, k, format)?;
    let name = format.name();
    let ids = [199, 0, 31, 32, 5];
    let what = format!("embed {name}");
    lines.push(both(pair, &what, 0.0, |cx, out| {
        embed(cx, &ids, &weight, out);
    })?);
    for m in [1, 8, 33, 70] {
        let x = random(m, k, m as u64);
        let expected = product(&x, &weight);
        let mut got = Rows::new();
        linear(
            &pair.gpu,
            &x,
            &weight,
            Epilogue::then(Then::Store),
            &mut got,
        );
        pair.gpu.settle(&mut got)?;
        // Factors rounded to bf16, but for f32 and where few rows see packed weights as they are.
        let rounds = match format {
            Format::F32 => false,
            Format::Bf16 | Format::F16 => true,
            _ => m > 8,
        };
        let what = format!("linear {name}, {m} rows");
        let bound = if rounds { 1e-2 } else { 1e-4 };
        lines.push(line(what, (&got, &expected), bound));
    }
    Ok(())
}

fn product(x: &Rows, weight: &PackedWeight) -> Rows {
    let mut expected = Rows::new();
    expected.reset(x.rows(), weight.rows());
    let mut row = vec![0.0; weight.cols()];
    for o in 0..weight.rows() {
        weight.dequantize_row(o, &mut row);
        for r in 0..x.rows() {
            let products = x.row(r).iter().zip(&row);
            let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            expected.row_mut(r)[o] = sum as f32;
        }
    }
    expected
}

fn spec(
    (q_heads, kv_heads, k_dim, v_dim): (usize, usize, usize, usize),
    window: Option<usize>,
) -> AttnSpec {
    AttnSpec {
        layout: HeadLayout {
            q_heads,
            kv_heads,
            k_dim,
            v_dim,
        },
        scale: (k_dim as f32).sqrt().recip(),
        causal: true,
        window,
        cap: None,
        halves: false,
    }
}

/// A prompt of 600 tokens, then one more token: both kinds of work, with splits.
fn attention(
    pair: &Pair,
    heads: (usize, usize, usize, usize),
    (dtype, window): (KvDtype, Option<usize>),
) -> Result<Line, Error> {
    let spec = spec(heads, window);
    let qkv = random(LEN, spec.layout.qkv_width(), 7);
    let run = |cx: &Cx| {
        let rows = [(0..LEN, LEN), (LEN - 1..LEN, LEN)];
        prompt(cx, (&spec, dtype), &qkv, &rows)
    };
    let got = run(&pair.gpu)?;
    let expected = if dtype.is_for_devices() {
        pair.gpu.attend_by(Some(Attend::Plain));
        let plain = run(&pair.gpu);
        pair.gpu.attend_by(None);
        plain?
    } else {
        run(&pair.cpu)?
    };
    let what = format!("paged {heads:?} {dtype:?} window {window:?}");
    // The processor rounds what it multiplies with an int8 or bf16 cache, and so do tiles.
    let bound = if dtype == KvDtype::F32 { 1e-4 } else { 2e-2 };
    Ok(line(what, (&got, &expected), bound))
}

/// A prompt at once and in chunks: the same bits, though a chunk's tiles hold large values of tokens that only later chunks see.
fn chunks(pair: &Pair, dtype: KvDtype) -> Result<Line, Error> {
    let spec = spec((8, 2, 64, 64), None);
    let mut qkv = random(LEN, spec.layout.qkv_width(), 7);
    for t in LEN / 3..LEN {
        let row = qkv.row_mut(t);
        let values = row.len() - 2 * 64;
        row[values..].iter_mut().for_each(|v| *v *= 1e4);
    }
    let whole = prompt(&pair.gpu, (&spec, dtype), &qkv, &[(0..LEN, LEN)])?;
    let ends = [70, 190, 210, 333, LEN];
    let parts = ends.iter().scan(0, |first, end| {
        let rows = *first..*end;
        *first = *end;
        Some((rows, *end))
    });
    let parts: Vec<_> = parts.collect();
    let got = prompt(&pair.gpu, (&spec, dtype), &qkv, &parts)?;
    Ok(line(
        format!("paged in chunks, {dtype:?}"),
        (&got, &whole),
        0.0,
    ))
}

/// Tokens of a prompt.
const LEN: usize = 600;

/// Attention of rows of a prompt, each of `parts` with the length of its context, behind a cache of `dtype` that has all of it.
fn prompt(
    cx: &Cx,
    (spec, dtype): (&AttnSpec, KvDtype),
    qkv: &Rows,
    parts: &[(Range<usize>, usize)],
) -> Result<Rows, Error> {
    let blocks = (LEN / 16 + 1) as u32;
    let slots: Vec<u32> = (0..LEN as u32)
        .map(|t| (blocks - 1 - t / 16) * 16 + t % 16)
        .collect();
    let mut tables = BlockTables::default();
    tables.push((0..blocks).rev());
    let group = CacheGroup {
        kind: GroupKind::Full(spec.layout),
        layers: 1,
    };
    let mut cache = KvCache::on(cx, &[group], blocks as usize, 16, dtype)?;
    write_kv(cx, qkv, &mut cache.layer(0, 0), &slots);
    let (mut each, mut all) = (Rows::new(), Vec::new());
    let width = spec.layout.qkv_width();
    for (rows, len) in parts {
        let values = &qkv.as_slice()[rows.start * width..rows.end * width];
        let x = Rows::from_vec(width, values.to_vec());
        let meta = AttnMeta {
            cu_seqlens: &[0, x.rows() as u32],
            kv_lens: &[*len as u32],
            tables: &tables,
        };
        paged(cx, &x, &cache.layer(0, 0), &meta, spec, &mut each);
        cx.settle(&mut each)?;
        all.extend_from_slice(each.as_slice());
    }
    Ok(Rows::from_vec(spec.layout.out_width(), all))
}

fn packed_attention(pair: &Pair) -> Result<Vec<Line>, Error> {
    let spec = AttnSpec {
        causal: false,
        ..spec((12, 12, 64, 64), None)
    };
    let halves = AttnSpec {
        halves: true,
        ..spec
    };
    let qkv = random(700, spec.layout.qkv_width(), 8);
    let cu = [0u32, 40, 41, 700];
    Ok(vec![
        both(pair, "varlen", 1e-4, |cx, out| {
            varlen(cx, &qkv, &cu, &spec, out);
        })?,
        both(pair, "varlen_one", 1e-4, |cx, out| {
            varlen_one(cx, &qkv, (&cu, &[0, 40, 699]), &spec, out);
        })?,
        // In tiles: queries, keys, values and exponentials are rounded to 16 bits.
        both(pair, "varlen in halves", 2e-2, |cx, out| {
            varlen(cx, &qkv, &cu, &halves, out);
        })?,
    ])
}

/// The best token of each row; what else choosing does is the engine's test.
fn choices(pair: &Pair) -> Result<Line, Error> {
    let mut logits = random(6, 5000, 9);
    let best: Vec<u32> = (0..6)
        .map(|r| koma_tests::golden::argmax(logits.row(r)))
        .collect();
    let mut chooser = Chooser::default();
    for _ in 0..6 {
        chooser.row(Some(5));
        for (temperature, top_k) in [(0.0, 0), (1.0, 1)] {
            chooser.choose(Choice {
                uniform: 0.3,
                temperature,
                top_k,
                top_p: 1.0,
                min_p: 0.0,
            });
        }
    }
    chooser.ask(&pair.gpu, &mut logits)?;
    chooser.wait(&pair.gpu)?;
    let right = (0..12).all(|i| chooser.chosen(i).is_some_and(|(id, _)| id == best[i / 2]));
    Ok(Line {
        what: "choose".to_owned(),
        right: Some(right),
        figures: Vec::new(),
    })
}
