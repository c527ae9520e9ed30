//! Norms, rope, and what is done to values by themselves.

use super::each;
use crate::cuda::stream::{Grid, Stream, launch};
use crate::{Error, HeadLayout, Pooling, RopeTable, Rows};
use std::sync::Arc;

pub(crate) fn rms_norm(
    stream: &Arc<Stream>,
    x: &Rows,
    (weight, eps): (&[f32], f32),
    add: bool,
    out: &mut Rows,
) {
    stream.attempt(|| {
        let (rows, width) = (x.rows(), x.width());
        let (x, weight) = (x.on(stream)?, stream.constant(weight)?);
        let out = if add {
            out.change_on(stream)?
        } else {
            out.write_on(stream)?
        };
        let grid = Grid::of(rows, 256);
        if !add && let Some(last) = stream.take_residual(x, (rows, width)) {
            return launch!(stream, "residual_rms_norm", grid; last.sums, x, weight, eps, width as i32, out);
        }
        launch!(stream, "rms_norm", grid; x, weight, eps, width as i32, i32::from(add), out)
    });
}

/// A norm whose sum does not wait for all warps, for the tests' control.
#[cfg(all(test, feature = "cuda-emu"))]
pub(crate) fn rms_norm_without_barrier(
    stream: &Arc<Stream>,
    x: &Rows,
    (weight, eps): (&[f32], f32),
    out: &mut Rows,
) {
    out.reset(x.rows(), x.width());
    stream.attempt(|| {
        let (grid, width) = (Grid::of(x.rows(), 256), x.width() as i32);
        let (x, weight) = (x.on(stream)?, stream.constant(weight)?);
        let out = out.write_on(stream)?;
        launch!(stream, "rms_norm_without_barrier", grid; x, weight, eps, width, 0_i32, out)
    });
}

pub(crate) fn rms_norm_heads(
    stream: &Arc<Stream>,
    qkv: &mut Rows,
    layout: &HeadLayout,
    (query, key): (&[f32], &[f32]),
    eps: f32,
) {
    stream.attempt(|| {
        let grid = Grid::of(qkv.rows(), 256);
        let (query, key) = (stream.constant(query)?, stream.constant(key)?);
        let (q_heads, kv_heads) = (layout.q_heads as i32, layout.kv_heads as i32);
        let (dim, width) = (layout.k_dim as i32, qkv.width() as i32);
        let qkv = qkv.change_on(stream)?;
        launch!(stream, "rms_norm_heads", grid; qkv, query, key, eps, q_heads, kv_heads, dim, width)
    });
}

pub(crate) fn layer_norm(
    stream: &Arc<Stream>,
    x: &mut Rows,
    (weight, bias): (&[f32], &[f32]),
    eps: f32,
) {
    stream.attempt(|| {
        let (rows, width) = (x.rows(), x.width());
        let (weight, bias) = (stream.constant(weight)?, stream.constant(bias)?);
        let x = x.change_on(stream)?;
        let grid = Grid::of(rows, 256);
        if let Some(last) = stream.take_residual(x, (rows, width)) {
            return launch!(stream, "residual_layer_norm", grid; last.sums, x, weight, bias, eps, width as i32);
        }
        launch!(stream, "layer_norm", grid; x, weight, bias, eps, width as i32)
    });
}

pub(crate) fn rope_angles(
    stream: &Arc<Stream>,
    positions: &[u32],
    table: &RopeTable,
    out: &mut Rows,
) {
    stream.attempt(|| {
        let grid = Grid::of(positions.len(), 128);
        let half = table.inv_freq.len() as i32;
        let positions = stream.input("positions", positions)?;
        let frequencies = stream.constant(&table.inv_freq)?;
        let out = out.write_on(stream)?;
        launch!(stream, "rope_angles", grid; positions, frequencies, table.scale, half, out)
    });
}

pub(crate) fn rope(
    stream: &Arc<Stream>,
    qkv: &mut Rows,
    layout: &HeadLayout,
    angles: &Rows,
    interleaved: bool,
) {
    stream.attempt(|| {
        let grid = Grid::of(qkv.rows(), 128);
        let heads = (layout.q_heads + layout.kv_heads) as i32;
        let (dim, width) = (layout.k_dim as i32, qkv.width() as i32);
        let half = (angles.width() / 2) as i32;
        let angles = angles.on(stream)?;
        let qkv = qkv.change_on(stream)?;
        let interleaved = i32::from(interleaved);
        launch!(stream, "rope", grid; qkv, angles, heads, dim, width, half, interleaved)
    });
}

pub(crate) fn soft_cap(stream: &Arc<Stream>, x: &mut Rows, cap: f32) {
    stream.attempt(|| {
        let count = x.rows() * x.width();
        let x = x.change_on(stream)?;
        launch!(stream, "soft_cap", each(count); x, cap, count)
    });
}

pub(crate) fn scale(stream: &Arc<Stream>, x: &mut Rows, factor: f32) {
    stream.attempt(|| {
        let count = x.rows() * x.width();
        let x = x.change_on(stream)?;
        launch!(stream, "scale", each(count); x, factor, count)
    });
}

pub(crate) fn silu_mul(stream: &Arc<Stream>, gate: &mut Rows, up: &Rows) {
    stream.attempt(|| {
        let count = gate.rows() * gate.width();
        let (up, gate) = (up.on(stream)?, gate.change_on(stream)?);
        launch!(stream, "silu_times", each(count); gate, up, count)
    });
}

pub(crate) fn add_rows(stream: &Arc<Stream>, from: &Rows, out: &mut Rows) {
    stream.attempt(|| {
        let (count, values) = (from.rows() * from.width(), out.rows() * out.width());
        let from = from.on(stream)?;
        let out = out.change_on(stream)?;
        launch!(stream, "add_rows", each(values); from, count, values, out)
    });
}

pub(crate) fn gather(stream: &Arc<Stream>, from: &Rows, rows: &[u32], out: &mut Rows) {
    stream.attempt(|| {
        let rows = (rows.len(), stream.input("rows", rows)?);
        gather_those(stream, from, rows, out)
    });
}

pub(super) fn gather_those(
    stream: &Arc<Stream>,
    from: &Rows,
    (many, rows): (usize, u64),
    out: &mut Rows,
) -> Result<(), Error> {
    let (width, count) = (from.width(), many * from.width());
    let (from, out) = (from.on(stream)?, out.write_on(stream)?);
    launch!(stream, "gather_rows", each(count); from, rows, width, count, out)
}

pub(crate) fn pool(
    stream: &Arc<Stream>,
    modes: &[Pooling],
    hidden: &Rows,
    (cu_seqlens, skips): (&[u32], &[u32]),
    out: &mut Rows,
) {
    stream.attempt(|| {
        let (count, width) = (out.rows(), hidden.width());
        let skips = (0..count).map(|i| skips.get(i).copied().unwrap_or(0));
        let modes_of = modes.iter().map(|mode| *mode as u32);
        let texts: Vec<u32> = cu_seqlens
            .iter()
            .copied()
            .chain(skips)
            .chain(modes_of)
            .collect();
        let texts = stream.input("texts to pool", &texts)?;
        let grid = Grid::with([count, modes.len(), width.div_ceil(256)], 256);
        let (x, out) = (hidden.on(stream)?, out.write_on(stream)?);
        launch!(stream, "pool_rows", grid; x, texts, count as i32, width as i32, out)
    });
}
