//! Attention over a cache on the device, and inside a packed batch, whose keys and values are written into a cache that lasts for
//! the call.

mod launch;
mod plan;
mod tiles;

use self::launch::{Cache, RawPlaces, attend, write};
use self::plan::Request;
use self::tiles::Tiles;
use crate::cache::Places;
use crate::cuda::DeviceBlocks;
use crate::cuda::blas::Kind;
use crate::cuda::stream::Stream;
use crate::cuda::weight::halves;
use crate::{AttnMeta, AttnSpec, BlockTables, Error, Fault, KvDtype, KvLayer, Rows};
use std::sync::Arc;

/// Tokens of a block of the cache that lasts for a call.
const BLOCK: usize = 16;

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
    stream.attempt(|| {
        let tiles = Tiles::of(stream, &spec.layout, kv.dtype())?;
        paged_in(stream, tiles, (qkv, kv, meta, spec), out)
    });
}

/// With tiles that do not wait until they are there, for the tests' control.
#[cfg(all(test, feature = "cuda-emu"))]
pub(crate) fn paged_without_barrier(
    stream: &Arc<Stream>,
    qkv: &Rows,
    kv: &KvLayer<'_>,
    meta: &AttnMeta<'_>,
    spec: &AttnSpec,
    out: &mut Rows,
) {
    let tiles = Some(Tiles::without_barrier());
    out.reset(qkv.rows(), spec.layout.out_width());
    stream.attempt(|| paged_in(stream, tiles, (qkv, kv, meta, spec), out));
}

fn paged_in(
    stream: &Arc<Stream>,
    tiles: Option<Tiles>,
    (qkv, kv, meta, spec): (&Rows, &KvLayer<'_>, &AttnMeta<'_>, &AttnSpec),
    out: &mut Rows,
) -> Result<(), Error> {
    let request = |i: usize| {
        let rows = meta.cu_seqlens[i] as usize..meta.cu_seqlens[i + 1] as usize;
        let len = meta.kv_lens[i] as usize;
        Request {
            out: rows.start,
            position: len - rows.len(),
            len,
            table: meta.tables.starts[i] as usize,
            tiled: tiles.is_some_and(|tiles| tiles.take(rows.len(), &spec.layout)),
            rows,
        }
    };
    let requests = (0..meta.kv_lens.len()).map(request);
    for (i, request) in requests.clone().enumerate() {
        check_table(kv, spec, &request, meta.tables.table(i));
    }
    let cache = Cache {
        at: blocks_of(kv)?.at(stream)?,
        places: RawPlaces::of(&kv.view().places),
        dtype: kv.dtype(),
        blocks: &meta.tables.blocks,
    };
    attend(stream, qkv, spec, cache, (requests, tiles), out)
}

/// In what [`varlen`] writes keys and values down, and its tiles: where halves will do and there are tiles for them, all sequences go
/// through those, however short, so that one query of a sequence goes the way that all of them do.
fn kept_in(stream: &Stream, spec: &AttnSpec) -> Result<(KvDtype, Option<Tiles>), Error> {
    let dtype = match halves(stream) {
        _ if !spec.halves => KvDtype::F32,
        Kind::F16 => KvDtype::F16,
        _ => KvDtype::Bf16,
    };
    let tiles = Tiles::of(stream, &spec.layout, dtype)?;
    let dtype = tiles.map_or(KvDtype::F32, |_| dtype);
    Ok((dtype, tiles))
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
        let (dtype, tiles) = kept_in(stream, spec)?;
        let places = Places::new((spec.layout, BLOCK), (0, 1), dtype);
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
                tiled: tiles.is_some(),
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
        let bytes = dtype.bytes() * places.block_len() * tables.blocks.len();
        let store = stream.take(bytes)?;
        let raw = RawPlaces::of(&places);
        let store_at = (dtype, store.at());
        write(stream, qkv, (&spec.layout, raw), &slots, store_at)?;
        let cache = Cache {
            at: store.at(),
            places: raw,
            dtype,
            blocks: &tables.blocks,
        };
        let requests = (requests.into_iter(), tiles);
        attend(stream, qkv, spec, cache, requests, out)
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
