//! What the device gives: bytes moved, products, and single operations beside the time that those two allow.

use super::Line;
use super::kernels::random;
use koma_kernels::cuda::{Attend, Way};
use koma_kernels::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, Cx, Epilogue, Error, Format, GroupKind,
    HeadLayout, KvCache, KvDtype, Rows, StandIns, linear, paged, scale_rows,
};
use std::time::Instant;

/// Seconds of one call: the median of five times ten.
fn seconds(cx: &Cx, mut call: impl FnMut()) -> Result<f64, Error> {
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

/// Single operations beside the time that the device's ceilings allow, and where they are written down.
pub(super) struct Bench<'a> {
    pub(super) cx: &'a Cx,
    tiny: bool,
    /// Bytes a second that a copy moves, and operations a second of a product in bf16.
    ceilings: (f64, f64),
    /// The lines that are wanted; all, if none is named.
    only: &'a [String],
    lines: Vec<Line>,
}

impl Bench<'_> {
    pub(super) fn size(&self, large: usize, small: usize) -> usize {
        if self.tiny { small } else { large }
    }

    /// Measures `call`, if that is wanted. `work`: bytes that it moves, and operations.
    pub(super) fn add(
        &mut self,
        what: String,
        work: (usize, usize),
        call: impl FnMut(),
    ) -> Result<(), Error> {
        if !self.only.is_empty() && !self.only.contains(&what) {
            return Ok(());
        }
        let time = seconds(self.cx, call)?;
        let (bytes, operations) = self.ceilings;
        let floor = (work.0 as f64 / bytes).max(work.1 as f64 / operations);
        self.lines.push(Line {
            what,
            right: None,
            figures: vec![
                ("us", time * 1e6),
                ("floor_us", floor * 1e6),
                ("times_floor", time / floor),
            ],
        });
        Ok(())
    }
}

/// All lines, or those that `only` names.
pub(super) fn measure(cx: &Cx, tiny: bool, only: &[String]) -> Result<Vec<Line>, Error> {
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
    let ceiling = |what: &str, name, figure| Line {
        what: what.to_owned(),
        right: None,
        figures: vec![(name, figure)],
    };
    let mut bench = Bench {
        cx,
        tiny,
        ceilings: (bytes, operations),
        only,
        lines: vec![
            ceiling("read and written", "GB_per_s", bytes / 1e9),
            ceiling(
                "product in bf16, with its rounding",
                "TFLOP_per_s",
                operations / 1e12,
            ),
        ],
    };
    products(&mut bench)?;
    ways(&mut bench)?;
    for (batch, len) in [(1, 512), (1, 4096), (32, 512), (32, 4096)] {
        let some = (size(batch, batch.min(2)), size(len, 40));
        tokens(&mut bench, some)?;
    }
    prompts(&mut bench)?;
    super::parts::measure(&mut bench)?;
    Ok(bench.lines)
}

/// The lines that are farthest from their floors, the farthest first.
pub(super) fn worst(lines: &[Line]) -> Vec<&str> {
    let far = |line: &Line| {
        let mut figures = line.figures.iter();
        figures
            .find(|(name, _)| *name == "times_floor")
            .map(|f| f.1)
    };
    let mut all: Vec<_> = lines.iter().filter_map(|l| Some((far(l)?, l))).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.iter()
        .take(3)
        .map(|(_, line)| line.what.as_str())
        .collect()
}

fn square(edge: usize) -> Result<koma_kernels::PackedWeight, Error> {
    StandIns::new(usize::MAX).weight(edge, edge, Format::Bf16)
}

/// The products of a layer of Llama 3.1 8B.
fn products(bench: &mut Bench<'_>) -> Result<(), Error> {
    let cx = bench.cx;
    let shapes: &[(usize, usize)] = if bench.tiny {
        &[(64, 256)]
    } else {
        &[(6144, 4096), (28672, 4096), (4096, 14336)]
    };
    for format in [Format::Bf16, Format::Q8_0, Format::Q4_0, Format::Q4K] {
        for &(n, k) in shapes {
            let weight = StandIns::new(usize::MAX).weight(n, k, format)?;
            for m in [1, 8, 64] {
                let (x, mut out) = (random(m, k, 5), Rows::new());
                let moved = weight.bytes() + x.bytes() + 4 * m * n;
                let what = format!("linear {}, {m} x {n} x {k}", format.name());
                bench.add(what, (moved, 2 * m * n * k), || {
                    linear(cx, &x, &weight, Epilogue::default(), &mut out);
                })?;
            }
        }
    }
    Ok(())
}

/// The ways of a product beside each other, by number of rows: where the switch between them belongs (`kernels/src/cuda/way.rs`).
fn ways(bench: &mut Bench<'_>) -> Result<(), Error> {
    let cx = bench.cx;
    let (n, k) = (bench.size(4096, 64), bench.size(14336, 256));
    let rows: &[usize] = if bench.tiny {
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
                let moved = weight.bytes() + x.bytes() + 4 * m * n;
                let what = format!("{name}: {}, {m} x {n} x {k}", format.name());
                let done = bench.add(what, (moved, 2 * m * n * k), || {
                    linear(cx, &x, &weight, Epilogue::default(), &mut out);
                });
                cx.multiply_by(None);
                done?;
            }
        }
    }
    Ok(())
}

/// One token of each request.
fn tokens(bench: &mut Bench<'_>, (batch, len): (usize, usize)) -> Result<(), Error> {
    let moved = batch * len * 2 * 8 * 128 * 2;
    let dtype = stored(bench.cx).name();
    let what = format!("attention of {batch} tokens over {len} each, {dtype}");
    attention(bench, what, (batch, 1, len), (moved, 0))
}

/// The last rows of one prompt, both ways: where the switch between them belongs (`kernels/src/cuda/ops/attention/tiles.rs`), and what
/// tensor cores are good for.
fn prompts(bench: &mut Bench<'_>) -> Result<(), Error> {
    let len = bench.size(2048, 40);
    let rows: &[usize] = if bench.tiny {
        &[4, 40]
    } else {
        &[1, 2, 4, 8, 16, 64, 512, 2048]
    };
    for &rows in rows {
        for (way, name) in [(Attend::Plain, "plain"), (Attend::Tiles, "tiles")] {
            // Each row sees what is before it.
            let seen = rows * (len - rows) + rows * (rows + 1) / 2;
            let work = (len * 2 * 8 * 128 * 2, 4 * seen * 32 * 128);
            let dtype = stored(bench.cx).name();
            let what = format!("{name}: attention of {rows} rows over {len}, {dtype}");
            bench.cx.attend_by(Some(way));
            let done = attention(bench, what, (1, rows, len), work);
            bench.cx.attend_by(None);
            done?;
        }
    }
    Ok(())
}

/// How an engine stores keys and values, if nobody says.
fn stored(cx: &Cx) -> KvDtype {
    if cx.has_bf16() {
        KvDtype::Bf16
    } else {
        KvDtype::F16
    }
}

/// The last `rows` rows of `batch` requests of `len` tokens.
fn attention(
    bench: &mut Bench<'_>,
    what: String,
    (batch, rows, len): (usize, usize, usize),
    work: (usize, usize),
) -> Result<(), Error> {
    let cx = bench.cx;
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
    let mut cache = KvCache::on(cx, &[group], each * batch, 16, stored(cx))?;
    let mut tables = BlockTables::default();
    for i in 0..batch {
        tables.push((i * each..(i + 1) * each).map(|block| block as u32));
    }
    let cu: Vec<u32> = (0..=batch).map(|i| (i * rows) as u32).collect();
    let lens = vec![len as u32; batch];
    let meta = AttnMeta {
        cu_seqlens: &cu,
        kv_lens: &lens,
        tables: &tables,
    };
    let x = random(batch * rows, layout.qkv_width(), 6);
    let mut out = Rows::new();
    let layer = cache.layer(0, 0);
    bench.add(what, work, || {
        paged(cx, &x, &layer, &meta, &spec, &mut out);
    })
}
