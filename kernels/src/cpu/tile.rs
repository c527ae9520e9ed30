//! Keys and values of a tile, from the cache or from packed rows, widened to f32 and in the order that attention reads.

use super::attention::{Context, TILE, Task, padded};
use super::isa::Simd;
use crate::HeadLayout;
use crate::cache::{Store, View};
use std::ops::Range;

/// Keys (transposed) and values of `tokens`, widened, to where they lie in the tile that begins at `start`.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(
    task: &Task<'_>,
    (to_keys, to_values): (&mut [f32], &mut [f32]),
    start: usize,
    tokens: Range<usize>,
) {
    let layout = &task.spec.layout;
    let width = padded(layout.v_dim);
    match task.context {
        Context::Packed { start: first } => {
            for t in tokens {
                let row = task.qkv.row(first + t);
                let keys = to_keys.chunks_exact_mut(TILE);
                for (to, k) in keys.zip(layout.key(row, task.kv_head)) {
                    to[t - start] = *k;
                }
                let to = (t - start) * width;
                to_values[to..to + layout.v_dim].copy_from_slice(layout.value(row, task.kv_head));
            }
        }
        Context::Paged { view, table } => {
            let View { places, store } = view;
            let size = places.block_size;
            let mut t = tokens.start;
            while t < tokens.end {
                let (block, offset) = (table[t / size] as usize, t % size);
                let run = (size - offset).min(tokens.end - t);
                if let Some(next) = table.get((t + TILE) / size) {
                    // SAFETY: as the caller promises, see `isa`.
                    unsafe { fetch::<S>(layout, &view, (*next as usize, task.kv_head)) };
                }
                let keys = places.keys(block, task.kv_head) + offset;
                let values = places.values(block, task.kv_head) + offset * layout.v_dim;
                for d in 0..layout.k_dim {
                    let to = &mut to_keys[d * TILE + t - start..][..run];
                    // SAFETY: as the caller promises, see `isa`.
                    unsafe { widen::<S>(store, keys + d * size, to) };
                }
                for i in 0..run {
                    let to = &mut to_values[(t - start + i) * width..][..layout.v_dim];
                    // SAFETY: as the caller promises, see `isa`.
                    unsafe { widen::<S>(store, values + i * layout.v_dim, to) };
                }
                t += run;
            }
        }
    }
}

/// Asks for a head's part of a block that will be read soon: blocks are scattered, which no processor foresees.
#[inline(always)]
unsafe fn fetch<S: Simd>(layout: &HeadLayout, view: &View<'_>, (block, head): (usize, usize)) {
    let (places, size) = (view.places, view.places.block_size);
    let (start, bytes) = match view.store {
        Store::F32(v) => (v.as_ptr().cast::<u8>(), 4),
        Store::Bf16(v) => (v.as_ptr().cast::<u8>(), 2),
    };
    for (at, len) in [
        (places.keys(block, head), layout.k_dim * size),
        (places.values(block, head), layout.v_dim * size),
    ] {
        for line in (0..len * bytes).step_by(64) {
            // SAFETY: as the caller promises, see `isa`.
            unsafe { S::prefetch(start.wrapping_add(at * bytes + line)) };
        }
    }
}

/// Values of a cache layer from `at` on, as f32.
#[inline(always)]
unsafe fn widen<S: Simd>(store: &Store, at: usize, to: &mut [f32]) {
    let whole = to.len() / 16 * 16;
    match store {
        Store::F32(from) => to.copy_from_slice(&from[at..at + to.len()]),
        Store::Bf16(from) => {
            let from = &from[at..at + to.len()];
            for i in (0..whole).step_by(16) {
                // SAFETY: as the caller promises, see `isa`; `i + 16 <= len` of both.
                unsafe { S::store(to.as_mut_ptr().add(i), S::load_bf16(from.as_ptr().add(i))) };
            }
            for (to, v) in to[whole..].iter_mut().zip(&from[whole..]) {
                *to = f32::from_bits(u32::from(*v) << 16);
            }
        }
    }
}
