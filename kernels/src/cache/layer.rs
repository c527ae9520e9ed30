//! [`KvLayer`]: keys and values of one layer in a group's blocks, and the write into them.
//!
//! Of each block, layer and head, keys and then values, and of int8 their scales. Lanes of attention are 16 tokens of a key's
//! value, or 16 values of a token; a product adds up `P` numbers at a time, which lie together: four of int8, two of bf16, one
//! of f32.
//! ```text
//! keys     [tokens / 16][k_dim / P][16 tokens][P]      k_dim rounded up to a multiple of P
//! values   [tokens / P][v_dim][P]                      v_dim rounded up to a multiple of 16
//! scales   [tokens / 16][2][16 tokens]                 f32: of the keys, of the values
//! ```
//! An int8 is stored plus 128, as [`crate::cpu::isa::Simd::dot4_bytes`] wants it. What is rounded up is never written, so it is
//! zero. A block whose tokens are no multiple of 16 takes the memory of one whose are.

use super::KvDtype;
use crate::cpu::isa::dispatch;
use crate::cpu::kv::{Number, Write};
use crate::cpu::shared::Shared;
#[cfg(feature = "cuda")]
use crate::cuda::DeviceBlocks;
use crate::memory::Zeroed;
use crate::{Cx, HeadLayout, Rows};
use half::bf16;
#[cfg(feature = "cuda")]
use half::f16;

/// Tokens, or values of a value head, that are computed side by side.
pub(crate) const LANES: usize = 16;

/// All blocks of a group.
#[derive(Debug)]
pub(crate) enum Store {
    F32(Zeroed<f32>),
    /// Bits of bf16.
    Bf16(Zeroed<u16>),
    /// Of int8 plus 128, and of the f32 that are their scales.
    Int8(Zeroed<u8>),
    /// A device has the numbers.
    There(KvDtype),
}

impl Store {
    /// Zeros; none if the memory cannot be had.
    pub(super) fn new(bytes: usize, dtype: KvDtype) -> Option<Self> {
        Some(match dtype {
            KvDtype::F32 => Self::F32(Zeroed::new(bytes / 4)?.in_huge_pages()),
            KvDtype::Bf16 => Self::Bf16(Zeroed::new(bytes / 2)?.in_huge_pages()),
            KvDtype::Int8 => Self::Int8(Zeroed::new(bytes)?.in_huge_pages()),
            KvDtype::F16 | KvDtype::Fp8 => return None,
        })
    }

    pub(super) fn dtype(&self) -> KvDtype {
        match self {
            Self::F32(_) => KvDtype::F32,
            Self::Bf16(_) => KvDtype::Bf16,
            Self::Int8(_) => KvDtype::Int8,
            Self::There(dtype) => *dtype,
        }
    }
}

/// Numbers that lie together.
fn together(dtype: KvDtype) -> usize {
    4 / dtype.bytes()
}

/// What scales take of the memory for numbers, for each token and head.
fn scale_numbers(dtype: KvDtype) -> usize {
    dtype.scale_bytes() / dtype.bytes()
}

/// Numbers that a layer keeps of a block; none if that overflows.
pub(super) fn numbers(layout: &HeadLayout, block_size: usize, dtype: KvDtype) -> Option<usize> {
    let tokens = block_size.checked_next_multiple_of(LANES)?;
    let keys = layout.k_dim.checked_next_multiple_of(together(dtype))?;
    let values = layout.v_dim.checked_next_multiple_of(LANES)?;
    let token = keys.checked_add(values)?;
    let token = token.checked_add(scale_numbers(dtype))?;
    token.checked_mul(tokens)?.checked_mul(layout.kv_heads)
}

/// Where the numbers of a layer are in its group's store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) block_size: usize,
    /// Numbers of a block, all layers together.
    block: usize,
    /// Where the layer begins in a block.
    layer: usize,
    /// Numbers of a head's keys, of both, and with the scales.
    keys: usize,
    scales: usize,
    head: usize,
    /// As in [`together`].
    p: usize,
    /// Values of a key and of a value, rounded up.
    k: usize,
    v: usize,
}

impl Places {
    pub(crate) fn new(
        (layout, block_size): (HeadLayout, usize),
        (layer, layers): (usize, usize),
        dtype: KvDtype,
    ) -> Self {
        let p = together(dtype);
        let tokens = block_size.next_multiple_of(LANES);
        let (k, v) = (
            layout.k_dim.next_multiple_of(p),
            layout.v_dim.next_multiple_of(LANES),
        );
        let head = tokens * (k + v + scale_numbers(dtype));
        let one = layout.kv_heads * head;
        Self {
            block_size,
            block: layers * one,
            layer: layer * one,
            keys: tokens * k,
            scales: tokens * (k + v),
            head,
            p,
            k,
            v,
        }
    }

    pub(crate) fn block_len(&self) -> usize {
        self.block
    }

    /// Numbers of a block, where the layer begins in it, where values and scales begin in a head, numbers of a head.
    #[cfg(feature = "cuda")]
    pub(crate) fn sizes(&self) -> [usize; 5] {
        [self.block, self.layer, self.keys, self.scales, self.head]
    }

    /// Values of a key and of a value, rounded up.
    #[cfg(feature = "cuda")]
    pub(crate) fn rounded(&self) -> (usize, usize) {
        (self.k, self.v)
    }

    /// Block and offset of token `t` of a request with this table.
    pub(crate) fn find(&self, table: &[u32], t: usize) -> (usize, usize) {
        (table[t / self.block_size] as usize, t % self.block_size)
    }

    /// Where the keys of `head` in `block` begin, 16 tokens from `offset` on, a multiple of 16. Numbers of a key are
    /// [`LANES`] apart, those that lie together as one.
    pub(crate) fn keys(&self, block: usize, head: usize, offset: usize) -> usize {
        block * self.block + self.layer + head * self.head + offset * self.k
    }

    /// Where the values of the tokens of `head` in `block` begin that lie together with that at `offset`.
    pub(crate) fn values(&self, block: usize, head: usize, offset: usize) -> usize {
        self.keys(block, head, 0) + self.keys + offset / self.p * self.p * self.v
    }

    /// Of [`Places::values`], from a token to those that follow it.
    pub(crate) fn value_step(&self) -> usize {
        self.p * self.v
    }

    /// Where the scales of `head` in `block` begin, 16 tokens from `offset` on, a multiple of 16: those of the keys, then those
    /// of the values.
    pub(crate) fn scales(&self, block: usize, head: usize, offset: usize) -> usize {
        self.keys(block, head, 0) + self.scales + offset * size_of::<[f32; 2]>()
    }

    /// Scale of the key of `slot`, or of its value.
    pub(crate) fn scale(&self, slot: usize, head: usize, of_value: bool) -> usize {
        let (block, offset) = (slot / self.block_size, slot % self.block_size);
        let (first, token) = (offset / LANES * LANES, offset % LANES);
        let number = usize::from(of_value) * LANES + token;
        self.scales(block, head, first) + number * size_of::<f32>()
    }

    /// The numbers of the key of `slot`.
    pub(crate) fn key(&self, slot: usize, head: usize) -> Numbers {
        let (block, offset) = (slot / self.block_size, slot % self.block_size);
        let keys = self.keys(block, head, offset / LANES * LANES);
        Numbers {
            start: keys + offset % LANES * self.p,
            together: self.p.trailing_zeros(),
            step: LANES * self.p,
        }
    }

    /// The numbers of the value of `slot`.
    pub(crate) fn value(&self, slot: usize, head: usize) -> Numbers {
        let (block, offset) = (slot / self.block_size, slot % self.block_size);
        Numbers {
            start: self.values(block, head, offset) + offset % self.p,
            together: 0,
            step: self.p,
        }
    }
}

/// Where the numbers of one key or value are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    start: usize,
    /// The logarithm of how many lie together.
    together: u32,
    /// From some that lie together to the next.
    step: usize,
}

impl Numbers {
    /// The place of number `d`.
    #[inline]
    pub(crate) fn at(self, d: usize) -> usize {
        let first = d >> self.together;
        self.start + first * self.step + (d - (first << self.together))
    }
}

/// A layer, to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) places: Places,
    pub(crate) store: &'a Store,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer<'a> {
    layout: HeadLayout,
    places: Places,
    store: &'a mut Store,
    /// Its numbers, where a device has them.
    #[cfg(feature = "cuda")]
    device: Option<&'a DeviceBlocks>,
}

impl<'a> KvLayer<'a> {
    /// Layer `layer` of `layers`.
    #[track_caller]
    pub(super) fn new(
        shape: (HeadLayout, usize),
        (layer, layers): (usize, usize),
        store: &'a mut Store,
    ) -> Self {
        assert!(layer < layers, "layer {layer} of {layers}");
        Self {
            layout: shape.0,
            places: Places::new(shape, (layer, layers), store.dtype()),
            store,
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// Heads of this layer.
    pub fn layout(&self) -> HeadLayout {
        self.layout
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.places.block_size
    }

    /// How it is stored.
    pub fn dtype(&self) -> KvDtype {
        self.store.dtype()
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            places: self.places,
            store: self.store,
        }
    }

    /// The stored key of `slot` and `head`, widened to f32; `out`: `[k_dim]`.
    pub fn read_key(&self, slot: usize, head: usize, out: &mut [f32]) {
        let scale = self.scale(self.places.scale(slot, head, false));
        let numbers = self.places.key(slot, head);
        for (d, o) in out.iter_mut().enumerate() {
            *o = scale * self.read(numbers.at(d));
        }
    }

    /// The stored value of `slot` and `head`, widened to f32; `out`: `[v_dim]`.
    pub fn read_value(&self, slot: usize, head: usize, out: &mut [f32]) {
        let scale = self.scale(self.places.scale(slot, head, true));
        let numbers = self.places.value(slot, head);
        for (d, o) in out.iter_mut().enumerate() {
            *o = scale * self.read(numbers.at(d));
        }
    }

    fn read(&self, at: usize) -> f32 {
        #[cfg(feature = "cuda")]
        if let Some(device) = self.device {
            return match self.dtype() {
                KvDtype::F32 => f32::from_le_bytes(device.read(4 * at)),
                KvDtype::Bf16 => bf16::from_le_bytes(device.read(2 * at)).to_f32(),
                KvDtype::F16 => f16::from_le_bytes(device.read(2 * at)).to_f32(),
                KvDtype::Fp8 => e4m3(device.read::<1>(at)[0]),
                KvDtype::Int8 => f32::from(i16::from(device.read::<1>(at)[0]) - 128),
            };
        }
        match &*self.store {
            Store::F32(v) => v[at],
            Store::Bf16(v) => bf16::from_bits(v[at]).to_f32(),
            Store::Int8(v) => f32::from(i16::from(v[at]) - 128),
            Store::There(_) => f32::NAN,
        }
    }

    /// The scale at a place; 1 where there are none.
    fn scale(&self, at: usize) -> f32 {
        #[cfg(feature = "cuda")]
        if let (Some(device), KvDtype::Int8) = (self.device, self.dtype()) {
            return f32::from_le_bytes(device.read(at));
        }
        match &*self.store {
            Store::F32(_) | Store::Bf16(_) | Store::There(_) => 1.0,
            Store::Int8(v) => f32::from_ne_bytes([v[at], v[at + 1], v[at + 2], v[at + 3]]),
        }
    }
}

#[cfg(feature = "cuda")]
impl<'a> KvLayer<'a> {
    /// The same, of blocks that a device has.
    pub(super) fn with(self, device: Option<&'a DeviceBlocks>) -> Self {
        Self { device, ..self }
    }

    /// The blocks on its device.
    pub(crate) fn device(&self) -> Option<&DeviceBlocks> {
        self.device
    }
}

/// Writes the keys and values of `qkv` (after rope), row `i` to slot `slots[i]`. `qkv`: `[tokens, layout.qkv_width()]`.
/// Each head is written by one thread, in the order of the rows: heads never share memory, whatever the slots are.
///
/// # Panics
/// If the shapes do not agree, or the cache is on a device and `cx` is not.
#[track_caller]
pub fn write_kv(cx: &Cx, qkv: &Rows, layer: &mut KvLayer<'_>, slots: &[u32]) {
    let (layout, places) = (layer.layout, layer.places);
    assert_eq!(qkv.width(), layout.qkv_width(), "write_kv: width");
    assert_eq!(qkv.rows(), slots.len(), "write_kv: slots");
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::write_kv(stream, qkv, layer, slots);
    }
    match layer.store {
        Store::There(_) => panic!("write_kv: the cache is on a device"),
        Store::F32(store) => write(cx, (qkv, slots), (&layout, &places), store),
        Store::Bf16(store) => write(cx, (qkv, slots), (&layout, &places), store),
        Store::Int8(store) => write(cx, (qkv, slots), (&layout, &places), store),
    }
}

/// The value of an E4M3 (OCP 8-bit floating point 1.0, table 1).
#[cfg(feature = "cuda")]
fn e4m3(code: u8) -> f32 {
    let size = code & 0x7f;
    // As an f32 of an exponent that is 120 less.
    let value = f32::from_bits(u32::from(size) << 20) * f32::from_bits((127 + 120) << 23);
    let value = if size == 0x7f { f32::NAN } else { value };
    if code & 0x80 == 0 { value } else { -value }
}

fn write<T: Number>(
    cx: &Cx,
    (qkv, slots): (&Rows, &[u32]),
    (layout, places): (&HeadLayout, &Places),
    store: &mut [T],
) {
    let store = Shared::new(store);
    let cost = slots.len() * (layout.k_dim + layout.v_dim);
    cx.run_rows(layout.kv_heads, cost, &|heads| {
        let kernel = Write {
            layout,
            places,
            qkv,
            slots,
            heads,
            store,
        };
        dispatch(cx.isa(), kernel);
    });
}
