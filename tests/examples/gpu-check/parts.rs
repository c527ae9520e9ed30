//! The operations of a step that move values and hardly compute, beside the time that moving their bytes takes.

use super::kernels::random;
use super::speed::Bench;
use koma_kernels::cuda::{Choice, Chooser};
use koma_kernels::{
    AttnSpec, CacheGroup, Error, Format, GroupKind, HeadLayout, KvCache, KvDtype, Pooling,
    RopeTable, Rows, StandIns, embed, gather_rows, layer_norm, pool, rms_norm, rope, rope_angles,
    varlen, write_kv,
};

/// Heads of Llama 3.1 8B.
const LAYOUT: HeadLayout = HeadLayout {
    q_heads: 32,
    kv_heads: 8,
    k_dim: 128,
    v_dim: 128,
};

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(), Error> {
    rows(bench)?;
    positions(bench)?;
    texts(bench)?;
    choices(bench)
}

/// Norms and rows looked up.
fn rows(bench: &mut Bench<'_>) -> Result<(), Error> {
    let (cx, tokens, width) = (bench.cx, bench.size(64, 2), bench.size(4096, 64));
    let of = format!("{tokens} x {width}");
    let (x, weight) = (random(tokens, width, 3), random(2, width, 4));
    let (bytes, mut out) = (x.bytes(), Rows::new());
    bench.add(format!("rms_norm, {of}"), (2 * bytes, 0), || {
        rms_norm(cx, &x, weight.row(0), 1e-5, &mut out);
    })?;
    let mut changed = x.clone();
    bench.add(format!("layer_norm, {of}"), (2 * bytes, 0), || {
        layer_norm(cx, &mut changed, weight.row(0), weight.row(1), 1e-5);
    })?;
    let vocab = bench.size(128_256, 96);
    let table = StandIns::new(usize::MAX).weight(vocab, width, Format::Bf16)?;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 37 % 90).collect();
    bench.add(format!("embed, {of}, bf16"), (bytes / 2 * 3, 0), || {
        embed(cx, &ids, &table, &mut out);
    })?;
    let one = 4 * width;
    bench.add(format!("gather_rows, 2 x {width}"), (4 * one, 0), || {
        gather_rows(cx, &x, &[1, 0], &mut out);
    })
}

/// Rotations, and the cache.
fn positions(bench: &mut Bench<'_>) -> Result<(), Error> {
    let (cx, tokens) = (bench.cx, bench.size(64, 2));
    let mut qkv = random(tokens, LAYOUT.qkv_width(), 6);
    let turns = RopeTable {
        inv_freq: (0..64).map(|i| 0.9f32.powi(i)).collect(),
        scale: 1.0,
        interleaved: false,
    };
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let mut angles = Rows::new();
    let bytes = 4 * tokens * 128;
    bench.add(format!("rope_angles, {tokens} tokens"), (bytes, 0), || {
        rope_angles(cx, &positions, &turns, &mut angles);
    })?;
    let turned = 2 * 4 * tokens * (32 + 8) * 128;
    let what = format!("rope, {tokens} tokens, 40 heads of 128");
    bench.add(what, (turned, 0), || {
        rope(cx, &mut qkv, &LAYOUT, &angles, false);
    })?;
    for dtype in [
        KvDtype::F32,
        KvDtype::Bf16,
        KvDtype::F16,
        KvDtype::Fp8,
        KvDtype::Int8,
    ] {
        let kind = GroupKind::Full(LAYOUT);
        let group = CacheGroup { kind, layers: 1 };
        let mut cache = KvCache::on(cx, &[group], tokens.div_ceil(16), 16, dtype)?;
        let bytes = tokens * 2 * 8 * 128 * (4 + dtype.bytes());
        let what = format!("write_kv {dtype:?}, {tokens} tokens, 8 heads of 128");
        bench.add(what, (bytes, 0), || {
            write_kv(cx, &qkv, &mut cache.layer(0, 0), &positions);
        })?;
    }
    Ok(())
}

/// What only encoders do.
fn texts(bench: &mut Bench<'_>) -> Result<(), Error> {
    let layout = HeadLayout {
        q_heads: 12,
        kv_heads: 12,
        k_dim: 64,
        v_dim: 64,
    };
    let spec = AttnSpec {
        layout,
        scale: 0.125,
        causal: false,
        window: None,
        cap: None,
        halves: false,
    };
    let (cx, texts, len) = (bench.cx, bench.size(32, 2), bench.size(128, 20));
    let ends: Vec<u32> = (0..=texts).map(|i| (i * len) as u32).collect();
    let text = random(texts * len, layout.qkv_width(), 7);
    let mut out = Rows::new();
    let products = 2 * 2 * texts * len * len * 12 * 64;
    for (halves, name) in [(false, "f32"), (true, "16 bits")] {
        let spec = AttnSpec { halves, ..spec };
        let what = format!("varlen in {name}, {texts} texts of {len} tokens, 12 heads of 64");
        bench.add(what, (text.bytes(), products), || {
            varlen(cx, &text, &ends, &spec, &mut out);
        })?;
    }
    let hidden = random(texts * len, 768, 8);
    let what = format!("pool, the mean of {texts} texts of {len} tokens");
    bench.add(what, (hidden.bytes(), 0), || {
        pool(cx, &[Pooling::Mean], &hidden, (&ends, &[]), &mut out);
    })
}

/// The choice of tokens.
fn choices(bench: &mut Bench<'_>) -> Result<(), Error> {
    let (cx, rows, vocab) = (bench.cx, bench.size(32, 2), bench.size(128_256, 600));
    let mut logits = random(rows, vocab, 8);
    let mut chooser = Chooser::default();
    for _ in 0..rows {
        chooser.row(None);
        chooser.choose(Choice {
            uniform: 0.5,
            temperature: 0.8,
            top_k: 50,
            top_p: 0.95,
            min_p: 0.0,
        });
    }
    let mut failed = Ok(());
    let what = format!("choosing of {rows} x {vocab} logits");
    bench.add(what, (2 * logits.bytes(), 0), || {
        let done = chooser.ask(cx, &mut logits);
        let done = done.and_then(|()| chooser.wait(cx));
        failed = std::mem::replace(&mut failed, Ok(())).and(done);
    })?;
    failed
}
