//! The paged cache: groups of layers that share block tables, and their memory.
//!
//! Invariant: a block holds what all layers of its group keep of its tokens, side by side, so memory is written from its
//! start on as blocks are used, and a block is copied at once.

mod layer;
mod states;

#[cfg(feature = "cuda")]
use crate::cuda::DeviceBlocks;
use crate::memory::Zeroed;
use crate::{Cx, Error, HeadLayout};
use half::bf16;
pub use layer::{KvLayer, write_kv};
pub(crate) use layer::{LANES, Numbers, Places, Store, View};
pub use states::StateLayer;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// Exact.
    F32,
    /// Rounded to nearest even; half the memory.
    Bf16,
    /// Each key and each value of a token and head in 127 steps of its largest number, which are kept as f32; a little more
    /// than a quarter of the memory. One with a NaN or an infinity is NaN.
    Int8,
    /// Rounded to nearest even; half the memory. Numbers beyond 65,504 become infinite. On devices only.
    F16,
    /// E4M3 (OCP 8-bit floating point 1.0), rounded to nearest even; a quarter of the memory. What is larger than 448 becomes 448, what is
    /// not finite NaN. On devices only.
    Fp8,
}

impl KvDtype {
    /// Its name, as flags and reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::F16 => "f16",
            Self::Fp8 => "fp8-e4m3",
        }
    }

    /// Whether only devices have caches of it.
    pub fn is_for_devices(self) -> bool {
        matches!(self, Self::F16 | Self::Fp8)
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Int8 | Self::Fp8 => 1,
        }
    }

    /// Bytes beside the values of each token and head.
    pub fn scale_bytes(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 | Self::Fp8 => 0,
            Self::Int8 => 8,
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
                let values = layer::numbers(&layout, block_size, dtype);
                values.map_or(usize::MAX, |n| n.saturating_mul(dtype.bytes()))
            }
            GroupKind::Recurrent { values } => values.saturating_mul(4),
        };
        self.layers.saturating_mul(layer)
    }
}

#[derive(Debug)]
enum GroupStore {
    Blocks {
        layout: HeadLayout,
        block_size: usize,
        layers: usize,
        store: Store,
        /// The blocks, if a device has them; then there are none in `store`.
        #[cfg(feature = "cuda")]
        device: Option<DeviceBlocks>,
    },
    States {
        values: usize,
        slots: usize,
        /// `[layers, slots, values]`.
        data: Zeroed<f32>,
        /// The same, if a device has them; then there are none in `data`.
        #[cfg(feature = "cuda")]
        device: Option<DeviceBlocks>,
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
    /// [`Error::OutOfMemory`] if a size overflows or the memory cannot be had; [`Error::CacheDtype`] if `dtype` is for devices only.
    pub fn new(
        groups: &[CacheGroup],
        blocks: usize,
        block_size: usize,
        dtype: KvDtype,
    ) -> Result<Self, Error> {
        if dtype.is_for_devices() {
            return Err(Error::CacheDtype(dtype.name()));
        }
        Self::make(groups, (blocks, block_size), dtype, true)
    }

    /// As [`KvCache::new`], on the device of `cx` if it has one.
    ///
    /// # Errors
    /// As [`KvCache::new`], and [`Error::Device`].
    pub fn on(
        cx: &Cx,
        groups: &[CacheGroup],
        blocks: usize,
        block_size: usize,
        dtype: KvDtype,
    ) -> Result<Self, Error> {
        #[cfg(feature = "cuda")]
        if let Some(stream) = cx.stream() {
            let mut cache = Self::make(groups, (blocks, block_size), dtype, false)?;
            for (store, group) in cache.groups.iter_mut().zip(groups) {
                let bytes = group.block_bytes(block_size, dtype).saturating_mul(blocks);
                let (GroupStore::Blocks { device, .. } | GroupStore::States { device, .. }) = store;
                *device = stream.attempt(|| DeviceBlocks::new(stream, bytes));
            }
            cx.check()?;
            return Ok(cache);
        }
        let _ = cx;
        Self::new(groups, blocks, block_size, dtype)
    }

    fn make(
        groups: &[CacheGroup],
        (blocks, block_size): (usize, usize),
        dtype: KvDtype,
        on_host: bool,
    ) -> Result<Self, Error> {
        let groups = groups
            .iter()
            .map(|group| {
                let bytes = group.block_bytes(block_size, dtype).saturating_mul(blocks);
                let oom = || Error::OutOfMemory {
                    what: "the cache",
                    bytes,
                };
                Ok(match group.kind {
                    GroupKind::Full(layout) | GroupKind::Sliding { layout, .. } => {
                        GroupStore::Blocks {
                            layout,
                            block_size,
                            layers: group.layers,
                            store: if on_host {
                                Store::new(bytes, dtype).ok_or_else(oom)?
                            } else {
                                Store::There(dtype)
                            },
                            #[cfg(feature = "cuda")]
                            device: None,
                        }
                    }
                    GroupKind::Recurrent { values } => GroupStore::States {
                        values,
                        slots: blocks,
                        data: Zeroed::new(if on_host { bytes / 4 } else { 0 }).ok_or_else(oom)?,
                        #[cfg(feature = "cuda")]
                        device: None,
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
    pub fn layer(&mut self, group: usize, layer: usize) -> KvLayer<'_> {
        match &mut self.groups[group] {
            GroupStore::Blocks {
                layout,
                block_size,
                layers,
                store,
                #[cfg(feature = "cuda")]
                device,
            } => {
                let layer = KvLayer::new((*layout, *block_size), (layer, *layers), store);
                #[cfg(feature = "cuda")]
                let layer = layer.with(device.as_ref());
                layer
            }
            GroupStore::States { .. } => {
                panic!("cache group {group} holds states, not keys and values")
            }
        }
    }

    /// States of layer `layer` of the recurrent group `group`.
    ///
    /// # Panics
    /// If there is no such layer, or the group is not recurrent.
    #[track_caller]
    pub fn states(&mut self, group: usize, layer: usize) -> StateLayer<'_> {
        match &mut self.groups[group] {
            GroupStore::States {
                values,
                slots,
                data,
                #[cfg(feature = "cuda")]
                device,
            } => {
                let (shape, len) = ((*values, *slots), *values * *slots);
                #[cfg(feature = "cuda")]
                if device.is_some() {
                    return StateLayer::new(shape, &mut []).with(device.as_ref(), layer * len);
                }
                StateLayer::new(shape, &mut data[layer * len..(layer + 1) * len])
            }
            GroupStore::Blocks { .. } => {
                panic!("cache group {group} holds keys and values, not states")
            }
        }
    }

    /// Writes small numbers over all keys and values, so that attention reads memory as it does where requests have been: for
    /// measuring.
    pub fn fill(&mut self) {
        for group in &mut self.groups {
            match group {
                #[cfg(feature = "cuda")]
                GroupStore::Blocks {
                    device: Some(device),
                    ..
                } => device.fill(),
                GroupStore::Blocks { store, .. } => match store {
                    Store::F32(values) => values.fill(0.25),
                    Store::Bf16(values) => values.fill(bf16::from_f32(0.25).to_bits()),
                    // As a scale that is 0.01, and as a number -68 of those.
                    Store::Int8(bytes) => bytes.fill(0x3c),
                    Store::There(_) => {}
                },
                GroupStore::States { .. } => {}
            }
        }
    }

    /// Copies block `from` of `group` onto block `to`, in all its layers (a fork gives each child its own last block).
    pub fn copy_block(&mut self, group: usize, from: usize, to: usize) {
        fn copy<T: Copy>(data: &mut [T], len: usize, from: usize, to: usize) {
            data.copy_within(from * len..(from + 1) * len, to * len);
        }
        match &mut self.groups[group] {
            GroupStore::Blocks {
                layout,
                block_size,
                layers,
                store,
                #[cfg(feature = "cuda")]
                device,
            } => {
                let len =
                    Places::new((*layout, *block_size), (0, *layers), store.dtype()).block_len();
                #[cfg(feature = "cuda")]
                if let Some(device) = device {
                    let bytes = len * store.dtype().bytes();
                    return device.copy(from * bytes, to * bytes, bytes);
                }
                match store {
                    Store::F32(v) => copy(v, len, from, to),
                    Store::Bf16(v) => copy(v, len, from, to),
                    Store::Int8(v) => copy(v, len, from, to),
                    Store::There(_) => {}
                }
            }
            GroupStore::States {
                values,
                slots,
                data,
                #[cfg(feature = "cuda")]
                device,
            } => {
                #[cfg(feature = "cuda")]
                if let Some(device) = device {
                    let (state, layer) = (4 * *values, 4 * *values * *slots);
                    for start in (0..device.bytes()).step_by(layer.max(1)) {
                        device.copy(start + from * state, start + to * state, state);
                    }
                    return;
                }
                for layer in data.chunks_exact_mut((*values * *slots).max(1)) {
                    copy(layer, *values, from, to);
                }
            }
        }
    }
}
