//! Attention over a cache on the device, and inside a packed batch, whose keys and values are written into a cache that lasts for
//! the call.

mod plan;

use self::plan::{Plan, QUERIES, Request, room};
use crate::cache::Places;
use crate::cuda::DeviceBlocks;
use crate::cuda::stream::{Grid, Plain, Stream, launch};
use crate::{AttnMeta, AttnSpec, BlockTables, Error, Fault, HeadLayout, KvDtype, KvLayer, Rows};
use std::sync::Arc;

/// Values of a value head at most.
const MOST_VALUES: usize = 256;
/// Values of a key at most: queries of a block lie in 48 KiB.
const MOST_KEYS: usize = 768;
/// Tokens of a block of the cache that lasts for a call.
const BLOCK: usize = 16;

/// `Places` in `cuda/cache.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawPlaces {
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
    fn of(places: &Places) -> Self {
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

/// `Shape` in `cuda/attention.cu`.
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
struct Cache<'a> {
    at: u64,
    places: RawPlaces,
    dtype: KvDtype,
    blocks: &'a [u32],
}

fn attend(
    stream: &Arc<Stream>,
    qkv: &Rows,
    spec: &AttnSpec,
    cache: Cache<'_>,
    requests: impl Iterator<Item = Request>,
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
    let chunks = group.div_ceil(heads);
    let plan = Plan::new(requests, layout, heads);
    let shape = Shape {
        places: cache.places,
        qkv_width: layout.qkv_width() as i64,
        q_heads: layout.q_heads as i32,
        kv_heads: layout.kv_heads as i32,
        k_dim: layout.k_dim as i32,
        v_dim: layout.v_dim as i32,
        heads: heads as i32,
        chunks: chunks as i32,
        causal: i32::from(spec.causal),
        window: spec
            .window
            .map_or(0, |w| i32::try_from(w).unwrap_or(i32::MAX / 2)),
        scale: spec.scale,
        cap: spec.cap.unwrap_or(0.0),
    };
    let width = (layout.v_dim.div_ceil(32))
        .next_power_of_two()
        .trailing_zeros() as usize;
    let name = Kernels::of(cache.dtype).attention[usize::from(plan.queries > 4)][width];
    let states = stream.take(4 * room(plan.states) * (layout.v_dim + 2))?;
    let tasks = stream.input("tasks of attention", &plan.tasks)?;
    let merges = stream.input("merges of attention", &plan.merges)?;
    let tables = stream.input("block tables", cache.blocks)?;
    let x = qkv.on(stream)?;
    let out = out.write_on(stream)?;
    let grid = Grid {
        shared: 4 * plan.queries.next_multiple_of(4) * layout.k_dim,
        ..Grid::with([plan.tasks.len(), layout.kv_heads * chunks, 1], 128)
    };
    launch!(stream, name, grid; x, cache.at, tasks, tables, shape, out, states.at())?;
    let merge = [
        "merge_splits_c1",
        "merge_splits_c2",
        "merge_splits_c4",
        "merge_splits_c8",
    ][width];
    let grid = Grid::with([plan.merges.len(), layout.q_heads, 1], 128);
    launch!(stream, merge, grid; merges, shape, states.at(), out)
}

/// The blocks of a layer on the device.
fn blocks_of<'a>(layer: &'a KvLayer<'_>) -> Result<&'a DeviceBlocks, Error> {
    let elsewhere = || Error::Device(Fault::Other, "a cache that is not on a device".to_owned());
    layer.device().ok_or_else(elsewhere)
}

/// The number of blocks that there are.
fn count(layer: &KvLayer<'_>) -> usize {
    let block = layer.view().places.block_len() * layer.dtype().bytes();
    layer.device().map_or(0, |blocks| blocks.bytes() / block)
}

/// Asserts that what `request` reads of the cache are blocks of it.
#[track_caller]
fn check_table(kv: &KvLayer<'_>, spec: &AttnSpec, request: &Request, table: &[u32]) {
    let size = kv.block_size();
    let first = spec
        .window
        .map_or(0, |w| (request.position + 1).saturating_sub(w));
    if request.rows.is_empty() {
        return;
    }
    let blocks = count(kv);
    let read = &table[first / size..request.len.div_ceil(size)];
    let good = read.iter().all(|block| (*block as usize) < blocks);
    assert!(good, "paged: a table names a block that there is not");
}

pub(crate) fn paged(
    stream: &Arc<Stream>,
    qkv: &Rows,
    kv: &KvLayer<'_>,
    meta: &AttnMeta<'_>,
    spec: &AttnSpec,
    out: &mut Rows,
) {
    let request = |i: usize| {
        let rows = meta.cu_seqlens[i] as usize..meta.cu_seqlens[i + 1] as usize;
        let len = meta.kv_lens[i] as usize;
        Request {
            out: rows.start,
            position: len - rows.len(),
            len,
            table: meta.tables.starts[i] as usize,
            rows,
        }
    };
    for i in 0..meta.kv_lens.len() {
        check_table(kv, spec, &request(i), meta.tables.table(i));
    }
    stream.attempt(|| {
        let cache = Cache {
            at: blocks_of(kv)?.at(stream)?,
            places: RawPlaces::of(&kv.view().places),
            dtype: kv.dtype(),
            blocks: &meta.tables.blocks,
        };
        let requests = (0..meta.kv_lens.len()).map(request);
        attend(stream, qkv, spec, cache, requests, out)
    });
}

/// All queries of each sequence or, with `only`, one of each.
pub(crate) fn varlen(
    stream: &Arc<Stream>,
    qkv: &Rows,
    (cu_seqlens, only): (&[u32], Option<&[u32]>),
    spec: &AttnSpec,
    out: &mut Rows,
) {
    stream.attempt(|| {
        let places = Places::new((spec.layout, BLOCK), (0, 1), KvDtype::F32);
        let (mut slots, mut requests) = (Vec::with_capacity(qkv.rows()), Vec::new());
        let mut tables = BlockTables::default();
        for (i, ends) in cu_seqlens.windows(2).enumerate() {
            let rows = ends[0] as usize..ends[1] as usize;
            let first = tables.blocks.len();
            slots.extend((0..rows.len()).map(|i| (first * BLOCK + i) as u32));
            let blocks = first..first + rows.len().div_ceil(BLOCK);
            tables.push(blocks.map(|block| block as u32));
            let all = Request {
                out: rows.start,
                position: 0,
                len: rows.len(),
                table: first,
                rows,
            };
            requests.push(match only {
                None => all,
                Some(only) => Request {
                    out: i,
                    position: only[i] as usize - all.rows.start,
                    rows: only[i] as usize..only[i] as usize + 1,
                    ..all
                },
            });
        }
        let bytes = 4 * places.block_len() * tables.blocks.len();
        let store = stream.take(bytes)?;
        let raw = RawPlaces::of(&places);
        write(
            stream,
            qkv,
            (&spec.layout, raw),
            &slots,
            (KvDtype::F32, store.at()),
        )?;
        let cache = Cache {
            at: store.at(),
            places: raw,
            dtype: KvDtype::F32,
            blocks: &tables.blocks,
        };
        attend(stream, qkv, spec, cache, requests.into_iter(), out)
    });
}

pub(crate) fn write_kv(stream: &Arc<Stream>, qkv: &Rows, layer: &KvLayer<'_>, slots: &[u32]) {
    let all = count(layer) * layer.block_size();
    let good = slots.iter().all(|slot| (*slot as usize) < all);
    assert!(good, "write_kv: a slot that there is not");
    stream.attempt(|| {
        let store = (layer.dtype(), blocks_of(layer)?.at(stream)?);
        let raw = RawPlaces::of(&layer.view().places);
        write(stream, qkv, (&layer.layout(), raw), slots, store)
    });
}

fn write(
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
