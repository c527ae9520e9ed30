//! The write of keys and values into the cache, rounded to what it stores.

use super::isa::{Kernel, Simd};
use super::shared::Shared;
use crate::cache::Places;
use crate::{HeadLayout, Rows};
use std::ops::Range;

/// A number as the cache stores it.
pub(crate) trait Number: Copy + Default + Send {
    /// Sixteen of them, rounded to nearest even.
    unsafe fn round<S: Simd>(v: S::F, to: *mut Self);
}

impl Number for f32 {
    #[inline(always)]
    unsafe fn round<S: Simd>(v: S::F, to: *mut Self) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { S::store(to, v) }
    }
}

/// Bits of a bf16.
impl Number for u16 {
    #[inline(always)]
    unsafe fn round<S: Simd>(v: S::F, to: *mut Self) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { S::store_bf16(to, v) }
    }
}

/// Row `i` of `qkv` goes to slot `slots[i]`, for some heads.
pub(crate) struct Write<'a, T> {
    pub(crate) layout: &'a HeadLayout,
    pub(crate) places: &'a Places,
    pub(crate) qkv: &'a Rows,
    pub(crate) slots: &'a [u32],
    pub(crate) heads: Range<usize>,
    pub(crate) store: Shared<'a, T>,
}

impl<T: Number> Kernel for Write<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { layout, places, .. } = self;
        for head in self.heads.clone() {
            for (r, &slot) in self.slots.iter().enumerate() {
                let (row, slot) = (self.qkv.row(r), slot as usize);
                // SAFETY: as the caller promises, see `isa`.
                unsafe {
                    let (key, value) = (layout.key(row, head), layout.value(row, head));
                    self.put::<S>(key, |d| places.key(slot, head, d));
                    self.put::<S>(value, |d| places.value(slot, head, d));
                }
            }
        }
    }
}

impl<T: Number> Write<'_, T> {
    /// Number `d` of `from` goes to `place(d)`.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, from: &[f32], place: impl Fn(usize) -> usize) {
        let mut rounded = [T::default(); 16];
        for (part, values) in from.chunks(16).enumerate() {
            // SAFETY: as the caller promises, see `isa`; at most 16 values are read, and 16 are written.
            unsafe {
                let v = S::load_part(values.as_ptr(), values.len());
                T::round::<S>(v, rounded.as_mut_ptr());
            }
            for (i, number) in rounded[..values.len()].iter().enumerate() {
                // SAFETY: a head's places belong to one thread.
                unsafe { self.store.set(place(16 * part + i), *number) };
            }
        }
    }
}
