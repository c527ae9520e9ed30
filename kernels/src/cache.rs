//! The paged cache: groups of layers that share block tables, their memory, and the write into it.

use crate::{Cx, Error, HeadLayout, Rows};
use half::bf16;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// Exact.
    F32,
    /// Rounded to nearest even; half the memory.
    Bf16,
}

impl KvDtype {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// What one group of layers keeps of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// Keys and values of every token.
    Full(HeadLayout),
    /// Keys and values of the last `window` tokens (a token sees itself and the `window - 1` before it); blocks wholly
    /// behind every future window are freed.
    Sliding {
        /// Heads.
        layout: HeadLayout,
        /// Tokens seen.
        window: usize,
    },
    /// A state of `values` f32 per layer, of fixed size; a block holds the state after its last token.
    Recurrent {
        /// Values per layer.
        values: usize,
    },
}

/// A set of layers with the same needs: they share one block table (or state slot) per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheGroup {
    /// What they keep.
    pub kind: GroupKind,
    /// How many layers there are.
    pub layers: usize,
}

impl CacheGroup {
    /// Bytes of one block of the whole group (all its layers).
    pub fn block_bytes(&self, block_size: usize, dtype: KvDtype) -> usize {
        self.layers
            * match self.kind {
                GroupKind::Full(layout) | GroupKind::Sliding { layout, .. } => {
                    block_size * layout.kv_heads * (layout.k_dim + layout.v_dim) * dtype.bytes()
                }
                GroupKind::Recurrent { values } => values * 4,
            }
    }
}

/// Keys and values of one layer: per block `[kv_heads, block_size, k_dim]` then `[kv_heads, block_size, v_dim]`.
#[derive(Debug)]
pub struct KvLayer {
    layout: HeadLayout,
    block_size: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl KvLayer {
    /// Heads of this layer.
    pub fn layout(&self) -> HeadLayout {
        self.layout
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    fn key_at(&self, slot: usize, head: usize) -> usize {
        let HeadLayout {
            kv_heads,
            k_dim,
            v_dim,
            ..
        } = self.layout;
        let (block, offset) = (slot / self.block_size, slot % self.block_size);
        block * kv_heads * self.block_size * (k_dim + v_dim)
            + (head * self.block_size + offset) * k_dim
    }

    fn value_at(&self, slot: usize, head: usize) -> usize {
        let HeadLayout {
            kv_heads,
            k_dim,
            v_dim,
            ..
        } = self.layout;
        let (block, offset) = (slot / self.block_size, slot % self.block_size);
        let keys = kv_heads * self.block_size * k_dim;
        block * kv_heads * self.block_size * (k_dim + v_dim)
            + keys
            + (head * self.block_size + offset) * v_dim
    }

    /// The stored key of `slot` and `head`, widened to f32; `out`: `[k_dim]`.
    pub fn read_key(&self, slot: usize, head: usize, out: &mut [f32]) {
        self.read(self.key_at(slot, head), out);
    }

    /// The stored value of `slot` and `head`, widened to f32; `out`: `[v_dim]`.
    pub fn read_value(&self, slot: usize, head: usize, out: &mut [f32]) {
        self.read(self.value_at(slot, head), out);
    }

    fn read(&self, at: usize, out: &mut [f32]) {
        match &self.store {
            Store::F32(v) => out.copy_from_slice(&v[at..at + out.len()]),
            Store::Bf16(v) => out
                .iter_mut()
                .zip(&v[at..])
                .for_each(|(o, v)| *o = v.to_f32()),
        }
    }

    fn write(&mut self, at: usize, values: &[f32]) {
        match &mut self.store {
            Store::F32(v) => v[at..at + values.len()].copy_from_slice(values),
            Store::Bf16(v) => v[at..]
                .iter_mut()
                .zip(values)
                .for_each(|(o, v)| *o = bf16::from_f32(*v)),
        }
    }
}

#[derive(Debug)]
enum GroupStore {
    Layers(Vec<KvLayer>),
    States {
        values: usize,
        slots: usize,
        data: Vec<f32>,
    },
}

/// The cache memory of one model: `blocks` blocks in each group. Which request owns a block is the engine's business.
#[derive(Debug)]
pub struct KvCache {
    groups: Vec<GroupStore>,
}

impl KvCache {
    /// Memory for `blocks` blocks of `block_size` tokens in every group. Pages are touched only when written.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if a size overflows or the memory cannot be had.
    pub fn new(
        groups: &[CacheGroup],
        blocks: usize,
        block_size: usize,
        dtype: KvDtype,
    ) -> Result<Self, Error> {
        let groups = groups
            .iter()
            .map(|group| {
                let bytes = group.block_bytes(block_size, dtype).saturating_mul(blocks);
                let oom = || Error::OutOfMemory {
                    what: "the cache",
                    bytes,
                };
                if bytes > isize::MAX as usize {
                    return Err(oom());
                }
                Ok(match group.kind {
                    GroupKind::Full(layout) | GroupKind::Sliding { layout, .. } => {
                        let len = bytes / dtype.bytes() / group.layers.max(1);
                        let layer = || KvLayer {
                            layout,
                            block_size,
                            store: match dtype {
                                KvDtype::F32 => Store::F32(vec![0.0; len]),
                                KvDtype::Bf16 => Store::Bf16(vec![bf16::ZERO; len]),
                            },
                        };
                        GroupStore::Layers((0..group.layers).map(|_| layer()).collect())
                    }
                    GroupKind::Recurrent { values } => GroupStore::States {
                        values,
                        slots: blocks,
                        data: vec![0.0; bytes / 4],
                    },
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { groups })
    }

    /// Layer `layer` of the attention group `group`.
    ///
    /// # Panics
    /// If there is no such layer, or the group is recurrent.
    #[track_caller]
    pub fn layer(&mut self, group: usize, layer: usize) -> &mut KvLayer {
        match &mut self.groups[group] {
            GroupStore::Layers(layers) => &mut layers[layer],
            GroupStore::States { .. } => {
                panic!("cache group {group} holds states, not keys and values")
            }
        }
    }

    /// State of `layer` in slot `slot` of the recurrent group `group`: `[values]`.
    ///
    /// # Panics
    /// If there is no such slot, or the group is not recurrent.
    #[track_caller]
    pub fn state(&mut self, group: usize, layer: usize, slot: usize) -> &mut [f32] {
        match &mut self.groups[group] {
            GroupStore::States {
                values,
                slots,
                data,
            } => {
                let at = (layer * *slots + slot) * *values;
                &mut data[at..at + *values]
            }
            GroupStore::Layers(_) => {
                panic!("cache group {group} holds keys and values, not states")
            }
        }
    }

    /// Copies block `from` of `group` onto block `to`, in all its layers (a fork gives each child its own last block).
    pub fn copy_block(&mut self, group: usize, from: usize, to: usize) {
        fn copy<T: Copy>(data: &mut [T], len: usize, from: usize, to: usize) {
            data.copy_within(from * len..(from + 1) * len, to * len);
        }
        match &mut self.groups[group] {
            GroupStore::Layers(layers) => {
                for layer in layers {
                    let HeadLayout {
                        kv_heads,
                        k_dim,
                        v_dim,
                        ..
                    } = layer.layout;
                    let len = kv_heads * layer.block_size * (k_dim + v_dim);
                    match &mut layer.store {
                        Store::F32(v) => copy(v, len, from, to),
                        Store::Bf16(v) => copy(v, len, from, to),
                    }
                }
            }
            GroupStore::States {
                values,
                slots,
                data,
            } => {
                for layer in data.chunks_exact_mut(*values * *slots) {
                    copy(layer, *values, from, to);
                }
            }
        }
    }
}

/// Writes the keys and values of `qkv` (after rope), row `i` to slot `slots[i]`. `qkv`: `[tokens, layout.qkv_width()]`.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn write_kv(cx: &Cx, qkv: &Rows, layer: &mut KvLayer, slots: &[u32]) {
    let layout = layer.layout;
    assert_eq!(qkv.width(), layout.qkv_width(), "write_kv: width");
    assert_eq!(qkv.rows(), slots.len(), "write_kv: slots");
    let _ = cx;
    for (r, &slot) in slots.iter().enumerate() {
        for head in 0..layout.kv_heads {
            let (k, v) = (layout.key(qkv.row(r), head), layout.value(qkv.row(r), head));
            let (k_at, v_at) = (
                layer.key_at(slot as usize, head),
                layer.value_at(slot as usize, head),
            );
            layer.write(k_at, k);
            layer.write(v_at, v);
        }
    }
}
