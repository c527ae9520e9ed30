//! What the device gives: bytes moved, products, and single operations beside the time that those two allow.

use super::Line;
use super::kernels::random;
use koma_kernels::cuda::Way;
use koma_kernels::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, Cx, Epilogue, Error, Format, GroupKind,
    HeadLayout, KvCache, KvDtype, Rows, StandIns, linear, paged, scale_rows,
};
use std::time::Instant;

/// Seconds of one call: the median of five times ten.
pub(super) fn seconds(cx: &Cx, mut call: impl FnMut()) -> Result<f64, Error> {
    let mut times = [0.0; 5];
    call();
    cx.wait()?;
    for time in &mut times {
        let began = Instant::now();
        (0..10).for_each(|_| call());
        cx.wait()?;
        *time = began.elapsed().as_secs_f64() / 10.0;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[2])
}

/// Bytes a second that a copy moves, and operations a second of a product in bf16.
pub(super) struct Ceilings {
    bytes: f64,
    operations: f64,
}

impl Ceilings {
    pub(super) fn line(&self, what: String, seconds: f64, (bytes, operations): (f64, f64)) -> Line {
        let floor = (bytes / self.bytes).max(operations / self.operations);
        Line {
            what,
            right: None,
            figures: vec![
                ("us", seconds * 1e6),
                ("floor_us", floor * 1e6),
                ("times_floor", seconds / floor),
            ],
        }
    }
}

pub(super) fn measure(cx: &Cx, tiny: bool) -> Result<Vec<Line>, Error> {
    let size = |large: usize, small: usize| if tiny { small } else { large };
    let mut x = random(size(1 << 14, 8), 1 << 12, 1);
    let time = seconds(cx, || scale_rows(cx, &mut x, 1.0))?;
    let bytes = 2.0 * x.bytes() as f64 / time;
    let edge = size(8192, 64);
    let (rows, mut out) = (size(4096, 32), Rows::new());
    let (weight, x) = (square(edge)?, random(rows, edge, 2));
    let time = seconds(cx, || {
        linear(cx, &x, &weight, Epilogue::default(), &mut out);
    })?;
    let operations = 2.0 * (rows * edge * edge) as f64 / time;
    let ceilings = Ceilings { bytes, operations };
    let ceiling = |what: &str, name, figure| Line {
        what: what.to_owned(),
        right: None,
        figures: vec![(name, figure)],
    };
    let mut lines = vec![
        ceiling("read and written", "GB_per_s", bytes / 1e9),
        ceiling(
            "product in bf16, with its rounding",
            "TFLOP_per_s",
            operations / 1e12,
        ),
    ];
    products(cx, tiny, &ceilings, &mut lines)?;
    ways(cx, tiny, &ceilings, &mut lines)?;
    for (batch, len) in [(1, 512), (1, 4096), (32, 512), (32, 4096)] {
        lines.push(attention(
            cx,
            (size(batch, batch.min(2)), size(len, 40)),
            &ceilings,
        )?);
    }
    lines.extend(super::parts::measure(cx, tiny, &ceilings)?);
    Ok(lines)
}

fn square(edge: usize) -> Result<koma_kernels::PackedWeight, Error> {
    StandIns::new(usize::MAX).weight(edge, edge, Format::Bf16)
}

/// The products of a layer of Llama 3.1 8B.
fn products(cx: &Cx, tiny: bool, ceilings: &Ceilings, lines: &mut Vec<Line>) -> Result<(), Error> {
    let shapes: &[(usize, usize)] = if tiny {
        &[(64, 256)]
    } else {
        &[(6144, 4096), (28672, 4096), (4096, 14336)]
    };
    for format in [Format::Bf16, Format::Q8_0, Format::Q4_0, Format::Q4K] {
        for &(n, k) in shapes {
            let weight = StandIns::new(usize::MAX).weight(n, k, format)?;
            for m in [1, 8, 64] {
                let (x, mut out) = (random(m, k, 5), Rows::new());
                let time = seconds(cx, || {
                    linear(cx, &x, &weight, Epilogue::default(), &mut out);
                })?;
                let moved = weight.bytes() + x.bytes() + 4 * m * n;
                let what = format!("linear {}, {m} x {n} x {k}", format.name());
                let work = (moved as f64, 2.0 * (m * n * k) as f64);
                lines.push(ceilings.line(what, time, work));
            }
        }
    }
    Ok(())
}

/// The ways of a product beside each other, by number of rows: where the switch between them belongs (`kernels/src/cuda/way.rs`).
fn ways(cx: &Cx, tiny: bool, ceilings: &Ceilings, lines: &mut Vec<Line>) -> Result<(), Error> {
    let (n, k) = if tiny { (64, 256) } else { (4096, 14336) };
    let rows: &[usize] = if tiny {
        &[1, 9]
    } else {
        &[1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    };
    for format in [Format::Bf16, Format::Q8_0, Format::Q4_0, Format::Q4K] {
        let weight = StandIns::new(usize::MAX).weight(n, k, format)?;
        for &m in rows {
            for (way, name) in [
                (Way::Few, "few"),
                (Way::Tiled, "tiled"),
                (Way::Library, "library"),
            ] {
                let none = match way {
                    // Plain weights have no such kernel.
                    Way::Few => format.block_len() == 1,
                    Way::Tiled => false,
                    Way::Library => !cx.has_library(),
                };
                if none {
                    continue;
                }
                cx.multiply_by(Some(way));
                let (x, mut out) = (random(m, k, 5), Rows::new());
                let time = seconds(cx, || {
                    linear(cx, &x, &weight, Epilogue::default(), &mut out);
                });
                cx.multiply_by(None);
                let moved = weight.bytes() + x.bytes() + 4 * m * n;
                let what = format!("{name}: {}, {m} x {n} x {k}", format.name());
                let work = (moved as f64, 2.0 * (m * n * k) as f64);
                lines.push(ceilings.line(what, time?, work));
            }
        }
    }
    Ok(())
}

/// One token of each request.
fn attention(cx: &Cx, (batch, len): (usize, usize), ceilings: &Ceilings) -> Result<Line, Error> {
    let layout = HeadLayout {
        q_heads: 32,
        kv_heads: 8,
        k_dim: 128,
        v_dim: 128,
    };
    let spec = AttnSpec {
        layout,
        scale: 0.088,
        causal: true,
        window: None,
        cap: None,
        halves: false,
    };
    let each = len.div_ceil(16);
    let group = CacheGroup {
        kind: GroupKind::Full(layout),
        layers: 1,
    };
    let mut cache = KvCache::on(cx, &[group], each * batch, 16, KvDtype::Bf16)?;
    let mut tables = BlockTables::default();
    for i in 0..batch {
        tables.push((i * each..(i + 1) * each).map(|block| block as u32));
    }
    let cu: Vec<u32> = (0..=batch as u32).collect();
    let lens = vec![len as u32; batch];
    let meta = AttnMeta {
        cu_seqlens: &cu,
        kv_lens: &lens,
        tables: &tables,
    };
    let (x, mut out) = (random(batch, layout.qkv_width(), 6), Rows::new());
    let layer = cache.layer(0, 0);
    let time = seconds(cx, || paged(cx, &x, &layer, &meta, &spec, &mut out))?;
    let moved = (batch * len * 2 * 8 * 128 * 2) as f64;
    let what = format!("attention of {batch} tokens over {len} each, bf16");
    Ok(ceilings.line(what, time, (moved, 0.0)))
}
