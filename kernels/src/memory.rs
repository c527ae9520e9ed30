//! [`Zeroed`]: large memory straight from the system, for weights and caches.
//!
//! Its pages are taken only when they are written, and given back when it is dropped. An allocator promises neither: it may
//! hand out pages that it had before and write zeros over all of them, and keep what is freed.
//! Invariant: the bytes are zero until somebody writes them.

use memmap2::MmapMut;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Gives what the heap has free back to the system: after a load, whose many small values would else stay resident for as
/// long as nothing needs their pages. Does nothing in a process whose allocator is not mimalloc.
pub fn give_back() {
    // SAFETY: it takes no pointer, may be called from any thread, and frees only what nobody holds.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// `[T; len]`, zero at first. It is given back to the system as soon as it is dropped.
#[derive(Debug)]
pub(crate) struct Zeroed<T> {
    /// None if there are no values: the system refuses an empty map.
    map: Option<MmapMut>,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Plain> Zeroed<T> {
    /// `len` zeros; none if the size overflows or the system has no such memory.
    pub(crate) fn new(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        isize::try_from(bytes).ok()?;
        let map = match bytes {
            0 => None,
            _ => Some(MmapMut::map_anon(bytes).ok()?),
        };
        Some(Self {
            map,
            len,
            values: PhantomData,
        })
    }

    /// Asks for huge pages, which spare address lookups where all of the memory will be written and much of it read.
    pub(crate) fn in_huge_pages(self) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(map) = &self.map {
            // A wish: a system without them refuses, and nothing is different.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        self
    }
}

impl<T> Default for Zeroed<T> {
    /// No values.
    fn default() -> Self {
        Self {
            map: None,
            len: 0,
            values: PhantomData,
        }
    }
}

impl<T: Plain> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Some(map) = &self.map else { return &[] };
        // SAFETY: the map is `len` values long, starts at a page, lives as long as `self`, and any bytes are a `T`
        // (`Plain`'s promise).
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let Some(map) = &mut self.map else {
            return &mut [];
        };
        // SAFETY: as above, and nobody else has the map.
        unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), self.len) }
    }
}

/// # Safety
/// Any bytes are a value of the type, and a page is aligned enough for it.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: any 4 bytes are an f32.
unsafe impl Plain for f32 {}
// SAFETY: any 2 bytes are a u16.
unsafe impl Plain for u16 {}
#[cfg(feature = "neuron")]
// SAFETY: any byte is a u8.
unsafe impl Plain for u8 {}
#[cfg(feature = "neuron")]
// SAFETY: any 4 bytes are an i32.
unsafe impl Plain for i32 {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_that_can_be_written() {
        for len in [0, 1, 5000] {
            let mut memory = Zeroed::<f32>::new(len).unwrap();
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|v| v.to_bits() == 0));
            memory.fill(1.5);
            assert!(memory.iter().all(|v| *v == 1.5));
        }
    }

    #[test]
    fn too_much_is_none() {
        for len in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 4] {
            assert!(Zeroed::<f32>::new(len).is_none());
        }
    }
}
