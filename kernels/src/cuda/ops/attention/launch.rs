//! What attention asks a device for: the write into a cache, the plain kernel and the merge of its splits, the kernels of tiles.

use super::plan::{Plan, QUERIES, Request, Task, room};
use super::tiles::Tiles;
use crate::cache::Places;
use crate::cuda::stream::{Grid, Plain, Stream, launch};
use crate::{AttnSpec, Error, Fault, HeadLayout, KvDtype, Rows};
use std::sync::Arc;

/// Values of a value head at most.
const MOST_VALUES: usize = 256;
/// Values of a key at most: queries of a block lie in 48 KiB.
const MOST_KEYS: usize = 768;

/// `Places` in `cuda/cache.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct RawPlaces {
    block: i64,
    layer: i64,
    keys: i64,
    scales: i64,
    head: i64,
    block_size: i32,
    k: i32,
    v: i32,
    unused: i32,
}
// SAFETY: five numbers of 8 bytes, then four of 4.
unsafe impl Plain for RawPlaces {}

impl RawPlaces {
    pub(super) fn of(places: &Places) -> Self {
        let sizes = places.sizes();
        let [block, layer, keys, scales, head] = sizes.map(|n| n as i64);
        let (k, v) = places.rounded();
        Self {
            block,
            layer,
            keys,
            scales,
            head,
            block_size: places.block_size as i32,
            k: k as i32,
            v: v as i32,
            unused: 0,
        }
    }
}

/// `Shape` in `cuda/attention.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Shape {
    places: RawPlaces,
    qkv_width: i64,
    q_heads: i32,
    kv_heads: i32,
    k_dim: i32,
    v_dim: i32,
    heads: i32,
    chunks: i32,
    causal: i32,
    window: i32,
    scale: f32,
    cap: f32,
}
// SAFETY: places, 8 bytes, then ten numbers of 4.
unsafe impl Plain for Shape {}

/// The kernels of a cache: the write, and attention by the number of queries and the width of a value.
struct Kernels {
    write: &'static str,
    attention: [[&'static str; 4]; 2],
}

macro_rules! kernels {
    ($store:literal) => {
        Kernels {
            write: concat!("write_kv_", $store),
            attention: [
                [
                    concat!("attention_", $store, "_q1_c1"),
                    concat!("attention_", $store, "_q1_c2"),
                    concat!("attention_", $store, "_q1_c4"),
                    concat!("attention_", $store, "_q1_c8"),
                ],
                [
                    concat!("attention_", $store, "_q4_c1"),
                    concat!("attention_", $store, "_q4_c2"),
                    concat!("attention_", $store, "_q4_c4"),
                    concat!("attention_", $store, "_q4_c8"),
                ],
            ],
        }
    };
}

impl Kernels {
    fn of(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => kernels!("f32"),
            KvDtype::Bf16 => kernels!("bf16"),
            KvDtype::F16 => kernels!("f16"),
            KvDtype::Fp8 => kernels!("fp8"),
            KvDtype::Int8 => kernels!("int8"),
        }
    }
}

/// A cache on the device, and how it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cache<'a> {
    pub(super) at: u64,
    pub(super) places: RawPlaces,
    pub(super) dtype: KvDtype,
    pub(super) blocks: &'a [u32],
}

impl Shape {
    /// `heads`: query heads of one key head that a block does.
    fn new(spec: &AttnSpec, places: RawPlaces, heads: usize) -> Self {
        let layout = &spec.layout;
        Self {
            places,
            qkv_width: layout.qkv_width() as i64,
            q_heads: layout.q_heads as i32,
            kv_heads: layout.kv_heads as i32,
            k_dim: layout.k_dim as i32,
            v_dim: layout.v_dim as i32,
            heads: heads as i32,
            chunks: (layout.q_heads / layout.kv_heads).div_ceil(heads) as i32,
            causal: i32::from(spec.causal),
            window: spec
                .window
                .map_or(0, |w| i32::try_from(w).unwrap_or(i32::MAX / 2)),
            scale: spec.scale,
            cap: spec.cap.unwrap_or(0.0),
        }
    }

    /// Blocks for `tasks` tasks.
    fn blocks(&self, tasks: usize) -> [usize; 3] {
        [tasks, (self.kv_heads * self.chunks) as usize, 1]
    }
}

/// Attention of `requests`; `tiles`: where those go that are to. `out`: `[rows, layout.out_width()]`.
pub(super) fn attend(
    stream: &Arc<Stream>,
    qkv: &Rows,
    spec: &AttnSpec,
    cache: Cache<'_>,
    (requests, tiles): (impl Iterator<Item = Request>, Option<Tiles>),
    out: &mut Rows,
) -> Result<(), Error> {
    let layout = &spec.layout;
    if layout.v_dim > MOST_VALUES || layout.k_dim > MOST_KEYS {
        let (k, v) = (layout.k_dim, layout.v_dim);
        return Err(Error::Device(
            Fault::Other,
            format!("heads of {k} and {v} values are too large for attention on a device"),
        ));
    }
    let group = layout.q_heads / layout.kv_heads;
    let heads = group.min(QUERIES);
    let tile_heads = tiles.map_or(1, |tiles| group.min(tiles.queries));
    let tile_rows = tiles.map_or(1, |tiles| tiles.queries / tile_heads);
    let plan = Plan::new(requests, layout, heads, tile_rows);
    let tables = stream.input("block tables", cache.blocks)?;
    let x = qkv.on(stream)?;
    let at = (x, cache.at, tables, out.write_on(stream)?);
    if let Some(tiles) = tiles.filter(|_| !plan.tiles.is_empty()) {
        let shape = Shape::new(spec, cache.places, tile_heads);
        in_tiles(stream, tiles, shape, &plan.tiles, at)?;
    }
    if plan.tasks.is_empty() {
        return Ok(());
    }
    let shape = Shape::new(spec, cache.places, heads);
    plainly(stream, cache.dtype, shape, &plan, at)
}

/// Rows, cache, block tables and output on the device.
type At = (u64, u64, u64, u64);

fn in_tiles(
    stream: &Arc<Stream>,
    tiles: Tiles,
    shape: Shape,
    tasks: &[Task],
    (x, cache, tables, out): At,
) -> Result<(), Error> {
    let grid = Grid::with(shape.blocks(tasks.len()), tiles.threads);
    let tasks = stream.input("tiles of attention", tasks)?;
    launch!(stream, tiles.kernel, grid; x, cache, tasks, tables, shape, out)
}

fn plainly(
    stream: &Arc<Stream>,
    dtype: KvDtype,
    shape: Shape,
    plan: &Plan,
    (x, cache, tables, out): At,
) -> Result<(), Error> {
    let (k_dim, v_dim) = (shape.k_dim as usize, shape.v_dim as usize);
    let width = v_dim.div_ceil(32).next_power_of_two().trailing_zeros() as usize;
    let name = Kernels::of(dtype).attention[usize::from(plan.queries > 4)][width];
    let states = stream.take(4 * room(plan.states) * (v_dim + 2))?;
    let tasks = stream.input("tasks of attention", &plan.tasks)?;
    let merges = stream.input("merges of attention", &plan.merges)?;
    let grid = Grid {
        shared: 4 * plan.queries.next_multiple_of(4) * k_dim,
        ..Grid::with(shape.blocks(plan.tasks.len()), 128)
    };
    launch!(stream, name, grid; x, cache, tasks, tables, shape, out, states.at())?;
    let merge = [
        "merge_splits_c1",
        "merge_splits_c2",
        "merge_splits_c4",
        "merge_splits_c8",
    ][width];
    let grid = Grid::with([plan.merges.len(), shape.q_heads as usize, 1], 128);
    launch!(stream, merge, grid; merges, shape, states.at(), out)
}

/// Keys and values of the rows of `qkv` into `slots` of a store.
pub(super) fn write(
    stream: &Arc<Stream>,
    qkv: &Rows,
    (layout, places): (&HeadLayout, RawPlaces),
    slots: &[u32],
    (dtype, store): (KvDtype, u64),
) -> Result<(), Error> {
    let name = Kernels::of(dtype).write;
    let slots_there = stream.input("slots", slots)?;
    let (q_heads, kv_heads) = (layout.q_heads as i32, layout.kv_heads as i32);
    let (k_dim, v_dim) = (layout.k_dim as i32, layout.v_dim as i32);
    let (grid, qkv) = (Grid::of(slots.len(), 128), qkv.on(stream)?);
    launch!(stream, name, grid; qkv, slots_there, places, q_heads, kv_heads, k_dim, v_dim, store)
}
