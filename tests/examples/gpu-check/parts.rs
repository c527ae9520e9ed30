//! The operations of a step that move values and hardly compute, beside the time that moving their bytes takes.

use super::Line;
use super::kernels::random;
use super::speed::{Ceilings, seconds};
use koma_kernels::cuda::{Choice, Chooser};
use koma_kernels::{
    AttnSpec, CacheGroup, Cx, Error, Format, GroupKind, HeadLayout, KvCache, KvDtype, RopeTable,
    Rows, StandIns, embed, gather_rows, layer_norm, rms_norm, rope, rope_angles, varlen, write_kv,
};

/// Heads of Llama 3.1 8B.
const LAYOUT: HeadLayout = HeadLayout {
    q_heads: 32,
    kv_heads: 8,
    k_dim: 128,
    v_dim: 128,
};

pub(super) fn measure(cx: &Cx, tiny: bool, ceilings: &Ceilings) -> Result<Vec<Line>, Error> {
    let size = |large: usize, small: usize| if tiny { small } else { large };
    let (tokens, width) = (size(64, 2), size(4096, 64));
    let mut lines = Vec::new();
    let mut add = |what: &str, bytes: usize, time: f64| {
        lines.push(ceilings.line(what.to_owned(), time, (bytes as f64, 0.0)));
    };
    let x = random(tokens, width, 3);
    let (weight, bias) = (random(1, width, 4), random(1, width, 5));
    let mut out = Rows::new();
    let time = seconds(cx, || rms_norm(cx, &x, weight.as_slice(), 1e-5, &mut out))?;
    add("rms_norm, 64 x 4096", 2 * x.bytes(), time);
    let mut changed = x.clone();
    let time = seconds(cx, || {
        layer_norm(cx, &mut changed, weight.as_slice(), bias.as_slice(), 1e-5);
    })?;
    add("layer_norm, 64 x 4096", 2 * x.bytes(), time);
    let table = StandIns::new(usize::MAX).weight(size(128_256, 96), width, Format::Bf16)?;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 37 % 90).collect();
    let time = seconds(cx, || embed(cx, &ids, &table, &mut out))?;
    add("embed, 64 x 4096, bf16", x.bytes() / 2 * 3, time);
    let time = seconds(cx, || gather_rows(cx, &x, &[1, 0], &mut out))?;
    add("gather_rows, 2 x 4096", 4 * 2 * 2 * width, time);

    let mut qkv = random(tokens, LAYOUT.qkv_width(), 6);
    let turns = RopeTable {
        inv_freq: (0..64).map(|i| 0.9f32.powi(i)).collect(),
        scale: 1.0,
        interleaved: false,
    };
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let mut angles = Rows::new();
    let time = seconds(cx, || rope_angles(cx, &positions, &turns, &mut angles))?;
    add("rope_angles, 64 tokens", angles.bytes(), time);
    let time = seconds(cx, || rope(cx, &mut qkv, &LAYOUT, &angles, false))?;
    let turned = 4 * tokens * (32 + 8) * 128;
    add("rope, 64 tokens, 40 heads of 128", 2 * turned, time);
    for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::Int8] {
        let kind = GroupKind::Full(LAYOUT);
        let group = CacheGroup { kind, layers: 1 };
        let mut cache = KvCache::on(cx, &[group], tokens.div_ceil(16), 16, dtype)?;
        let time = seconds(cx, || {
            write_kv(cx, &qkv, &mut cache.layer(0, 0), &positions);
        })?;
        let values = tokens * 2 * 8 * 128;
        let what = format!("write_kv {dtype:?}, 64 tokens, 8 heads of 128");
        add(&what, values * (4 + dtype.bytes()), time);
    }
    let heads = HeadLayout {
        q_heads: 12,
        kv_heads: 12,
        k_dim: 64,
        v_dim: 64,
    };
    let spec = AttnSpec {
        layout: heads,
        scale: 0.125,
        causal: false,
        window: None,
        cap: None,
        halves: false,
    };
    let (texts, len) = (size(32, 2), size(128, 20));
    let ends: Vec<u32> = (0..=texts).map(|i| (i * len) as u32).collect();
    let text = random(texts * len, heads.qkv_width(), 7);
    let time = seconds(cx, || varlen(cx, &text, &ends, &spec, &mut out))?;
    let products = (2 * 2 * texts * len * len * 12 * 64) as f64;
    let what = format!("varlen, {texts} texts of {len} tokens, 12 heads of 64");
    lines.push(ceilings.line(what, time, (text.bytes() as f64, products)));

    let vocab = size(128_256, 600);
    let mut logits = random(size(32, 2), vocab, 8);
    let mut chooser = Chooser::default();
    for _ in 0..logits.rows() {
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
    let time = seconds(cx, || {
        let done = chooser.ask(cx, &mut logits);
        let done = done.and_then(|()| chooser.wait(cx));
        failed = std::mem::replace(&mut failed, Ok(())).and(done);
    })?;
    failed?;
    let what = format!("choosing of {} x {vocab} logits", logits.rows());
    lines.push(ceilings.line(what, time, (2.0 * logits.bytes() as f64, 0.0)));
    Ok(lines)
}
