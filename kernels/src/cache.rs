//! The paged cache: groups of layers that share block tables, their memory, and the write into it.

use crate::cpu::shared::Shared;
use crate::memory::Zeroed;
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
    /// Bytes of one block of the whole group (all its layers); `usize::MAX` if that overflows.
    pub fn block_bytes(&self, block_size: usize, dtype: KvDtype) -> usize {
        let layer = match self.kind {
            GroupKind::Full(layout) | GroupKind::Sliding { layout, .. } => {
                let head = layout.k_dim.saturating_add(layout.v_dim);
                let token = layout.kv_heads.saturating_mul(head);
                block_size
                    .saturating_mul(token)
                    .saturating_mul(dtype.bytes())
            }
            GroupKind::Recurrent { values } => values.saturating_mul(4),
        };
        self.layers.saturating_mul(layer)
    }
}

/// Keys and values of one layer: per block `[kv_heads, k_dim, block_size]` (so that a vector holds one value of many
/// keys), then `[kv_heads, block_size, v_dim]`.
#[derive(Debug)]
pub struct KvLayer {
    layout: HeadLayout,
    block_size: usize,
    store: Store,
}

#[derive(Debug)]
pub(crate) enum Store {
    F32(Zeroed<f32>),
    /// Bits of bf16.
    Bf16(Zeroed<u16>),
}

/// A layer, to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) places: Places,
    pub(crate) store: &'a Store,
}

/// Where things are in a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    layout: HeadLayout,
    pub(crate) block_size: usize,
}

impl Places {
    /// The keys of `head` in `block`: `[k_dim, block_size]`.
    pub(crate) fn keys(&self, block: usize, head: usize) -> usize {
        let HeadLayout { k_dim, .. } = self.layout;
        block_len(&self.layout, self.block_size) * block + head * k_dim * self.block_size
    }

    /// The values of `head` in `block`: `[block_size, v_dim]`.
    pub(crate) fn values(&self, block: usize, head: usize) -> usize {
        let HeadLayout {
            kv_heads, v_dim, ..
        } = self.layout;
        self.keys(block, kv_heads) + head * self.block_size * v_dim
    }
}

/// Values of one block of a layer.
fn block_len(layout: &HeadLayout, block_size: usize) -> usize {
    layout.kv_heads * block_size * (layout.k_dim + layout.v_dim)
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

    /// How it is stored.
    pub fn dtype(&self) -> KvDtype {
        match self.store {
            Store::F32(_) => KvDtype::F32,
            Store::Bf16(_) => KvDtype::Bf16,
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            places: self.places(),
            store: &self.store,
        }
    }

    fn places(&self) -> Places {
        Places {
            layout: self.layout,
            block_size: self.block_size,
        }
    }

    /// The stored key of `slot` and `head`, widened to f32; `out`: `[k_dim]`.
    pub fn read_key(&self, slot: usize, head: usize, out: &mut [f32]) {
        let at = self.places().keys(slot / self.block_size, head) + slot % self.block_size;
        self.read((at, self.block_size), out);
    }

    /// The stored value of `slot` and `head`, widened to f32; `out`: `[v_dim]`.
    pub fn read_value(&self, slot: usize, head: usize, out: &mut [f32]) {
        let values = self.places().values(slot / self.block_size, head);
        let at = values + slot % self.block_size * self.layout.v_dim;
        self.read((at, 1), out);
    }

    /// Every `step`-th value from `at` on.
    fn read(&self, (at, step): (usize, usize), out: &mut [f32]) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = match &self.store {
                Store::F32(v) => v[at + i * step],
                Store::Bf16(v) => bf16::from_bits(v[at + i * step]).to_f32(),
            };
        }
    }
}

#[derive(Debug)]
enum GroupStore {
    Layers(Vec<KvLayer>),
    States {
        values: usize,
        slots: usize,
        data: Zeroed<f32>,
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
                let layer_bytes = bytes / group.layers.max(1);
                let oom = || Error::OutOfMemory {
                    what: "the cache",
                    bytes,
                };
                Ok(match group.kind {
                    GroupKind::Full(layout) | GroupKind::Sliding { layout, .. } => {
                        let layer = |_| {
                            Ok(KvLayer {
                                layout,
                                block_size,
                                store: match dtype {
                                    KvDtype::F32 => {
                                        Store::F32(Zeroed::new(layer_bytes / 4).ok_or_else(oom)?)
                                    }
                                    KvDtype::Bf16 => {
                                        Store::Bf16(Zeroed::new(layer_bytes / 2).ok_or_else(oom)?)
                                    }
                                },
                            })
                        };
                        let layers = (0..group.layers).map(layer);
                        GroupStore::Layers(layers.collect::<Result<_, Error>>()?)
                    }
                    GroupKind::Recurrent { values } => GroupStore::States {
                        values,
                        slots: blocks,
                        data: Zeroed::new(bytes / 4).ok_or_else(oom)?,
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

    /// Writes small numbers over all keys and values, so that attention reads memory as it does where requests have been: for
    /// measuring.
    pub fn fill(&mut self) {
        let groups = self.groups.iter_mut();
        let layers = groups.flat_map(|group| match group {
            GroupStore::Layers(layers) => layers.as_mut_slice(),
            GroupStore::States { .. } => &mut [],
        });
        for layer in layers {
            match &mut layer.store {
                Store::F32(values) => values.fill(0.25),
                Store::Bf16(values) => values.fill(bf16::from_f32(0.25).to_bits()),
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
                    let len = block_len(&layer.layout, layer.block_size);
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
                for layer in data.chunks_exact_mut((*values * *slots).max(1)) {
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
    let places = layer.places();
    match &mut layer.store {
        Store::F32(store) => write(cx, (qkv, slots), &places, store, |v| v),
        Store::Bf16(store) => write(cx, (qkv, slots), &places, store, |v| {
            bf16::from_f32(v).to_bits()
        }),
    }
}

/// The write, value by value, each head on one thread: heads never share memory, whatever the slots are.
fn write<T: Send>(
    cx: &Cx,
    (qkv, slots): (&Rows, &[u32]),
    places: &Places,
    store: &mut [T],
    round: impl Fn(f32) -> T + Sync,
) {
    let Places { layout, block_size } = *places;
    let store = Shared::new(store);
    let cost = 4 * slots.len() * (layout.k_dim + layout.v_dim);
    cx.run_rows(layout.kv_heads, cost, &|heads| {
        for head in heads {
            for (r, &slot) in slots.iter().enumerate() {
                let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
                let key = places.keys(block, head) + offset;
                for (d, k) in layout.key(qkv.row(r), head).iter().enumerate() {
                    // SAFETY: a head belongs to one range.
                    unsafe { store.set(key + d * block_size, round(*k)) };
                }
                let value = places.values(block, head) + offset * layout.v_dim;
                for (d, v) in layout.value(qkv.row(r), head).iter().enumerate() {
                    // SAFETY: a head belongs to one range.
                    unsafe { store.set(value + d, round(*v)) };
                }
            }
        }
    });
}
