//! The write of keys and values into the cache, rounded to what it stores.

use super::isa::{Kernel, Simd};
use super::quantize::{in_steps, steps};
use super::shared::Shared;
use crate::cache::{Numbers, Places};
use crate::{HeadLayout, Rows};
use std::ops::Range;

/// A number as the cache stores it.
pub(crate) trait Number: Copy + Default + Send {
    /// Sixteen of them in steps of which there are `factor` in 1, rounded to nearest even.
    unsafe fn round<S: Simd>(v: S::F, factor: f32, to: *mut Self);

    /// The factor for a token's numbers in a head, and their scale.
    #[inline(always)]
    unsafe fn steps<S: Simd>(_: &[f32]) -> (f32, f32) {
        (1.0, 1.0)
    }

    /// Keeps a scale, if it is not always 1.
    ///
    /// # Safety
    /// Nothing else uses this place at the time.
    #[inline(always)]
    unsafe fn keep(_: &Shared<'_, Self>, _at: usize, _scale: f32) {}
}

impl Number for f32 {
    #[inline(always)]
    unsafe fn round<S: Simd>(v: S::F, _: f32, to: *mut Self) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { S::store(to, v) }
    }
}

/// Bits of a bf16.
impl Number for u16 {
    #[inline(always)]
    unsafe fn round<S: Simd>(v: S::F, _: f32, to: *mut Self) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { S::store_bf16(to, v) }
    }
}

/// An int8, plus 128.
impl Number for u8 {
    #[inline(always)]
    unsafe fn round<S: Simd>(v: S::F, factor: f32, to: *mut Self) {
        // SAFETY: as the caller promises, see `isa`; sixteen bytes are written, and then read.
        unsafe {
            S::store_i8(to.cast(), in_steps::<S>(v, S::splat(factor)));
            let stored = to.cast::<[u8; 16]>();
            *stored = (*stored).map(|b| b ^ 0x80);
        }
    }

    #[inline(always)]
    unsafe fn steps<S: Simd>(values: &[f32]) -> (f32, f32) {
        let mut bits = 0;
        for part in values.chunks(16) {
            // SAFETY: as the caller promises, see `isa`; at most 16 values are read.
            unsafe {
                let v = S::load_part(part.as_ptr(), part.len());
                bits = bits.max(S::abs_bits(v, v));
            }
        }
        steps(f32::from_bits(bits))
    }

    #[inline(always)]
    unsafe fn keep(store: &Shared<'_, Self>, at: usize, scale: f32) {
        // SAFETY: the caller's promise.
        unsafe { store.part(at..at + size_of::<f32>()) }.copy_from_slice(&scale.to_ne_bytes());
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
                // SAFETY: as the caller promises, see `isa`; a head's places belong to one thread.
                unsafe {
                    let (key, value) = (layout.key(row, head), layout.value(row, head));
                    let scale = self.put::<S>(key, places.key(slot, head));
                    T::keep(&self.store, places.scale(slot, head, false), scale);
                    let scale = self.put::<S>(value, places.value(slot, head));
                    T::keep(&self.store, places.scale(slot, head, true), scale);
                }
            }
        }
    }
}

impl<T: Number> Write<'_, T> {
    /// `from` goes `to` these places. Returns its scale.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, from: &[f32], to: Numbers) -> f32 {
        let mut rounded = [T::default(); 16];
        // SAFETY: as the caller promises, see `isa`.
        let (factor, scale) = unsafe { T::steps::<S>(from) };
        for (part, values) in from.chunks(16).enumerate() {
            // SAFETY: as the caller promises, see `isa`; at most 16 values are read, and 16 are written.
            unsafe {
                let v = S::load_part(values.as_ptr(), values.len());
                T::round::<S>(v, factor, rounded.as_mut_ptr());
            }
            for (i, number) in rounded[..values.len()].iter().enumerate() {
                // SAFETY: a head's places belong to one thread.
                unsafe { self.store.set(to.at(16 * part + i), *number) };
            }
        }
        scale
    }
}
