//! [`Zeroed`]: large memory straight from the system, for weights and caches.
//!
//! Its pages are taken only when they are written, and given back when it is dropped. An allocator promises neither: it may
//! hand out pages that it had before and write zeros over all of them, and keep what is freed.
//! Invariant: the bytes are zero until somebody writes them.

mod arena;

use arena::Part;
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
    memory: Option<Memory>,
    len: usize,
    values: PhantomData<T>,
}

#[derive(Debug)]
enum Memory {
    Map(MmapMut),
    Part(Part),
}

impl<T: Plain> Zeroed<T> {
    /// `len` zeros; none if the size overflows or the system has no such memory.
    pub(crate) fn new(len: usize) -> Option<Self> {
        Self::with(len, |bytes| MmapMut::map_anon(bytes).ok().map(Memory::Map))
    }

    /// As [`Zeroed::new`], side by side with others in huge pages: for what will be written whole and read often.
    pub(crate) fn side_by_side(len: usize) -> Option<Self> {
        Self::with(len, |bytes| Part::new(bytes).map(Memory::Part))
    }

    /// Asks for huge pages for memory that is written from its start on.
    pub(crate) fn in_huge_pages(self) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(Memory::Map(map)) = &self.memory {
            // A wish: a system without them refuses, and nothing is different.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        self
    }

    fn with(len: usize, memory: impl FnOnce(usize) -> Option<Memory>) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        isize::try_from(bytes).ok()?;
        let memory = match bytes {
            0 => None,
            _ => Some(memory(bytes)?),
        };
        Some(Self {
            memory,
            len,
            values: PhantomData,
        })
    }
}

impl Memory {
    fn as_ptr(&self) -> *const u8 {
        match self {
            Self::Map(map) => map.as_ptr(),
            Self::Part(part) => part.as_ptr(),
        }
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Self::Map(map) => map.as_mut_ptr(),
            Self::Part(part) => part.as_ptr(),
        }
    }
}

impl<T> Default for Zeroed<T> {
    /// No values.
    fn default() -> Self {
        Self {
            memory: None,
            len: 0,
            values: PhantomData,
        }
    }
}

impl<T: Plain> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Some(memory) = &self.memory else {
            return &[];
        };
        // SAFETY: the memory is `len` values long, starts at a page, lives as long as `self`, and any bytes are a `T`
        // (`Plain`'s promise).
        unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let Some(memory) = &mut self.memory else {
            return &mut [];
        };
        // SAFETY: as above, and nobody else has the memory.
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), self.len) }
    }
}

/// # Safety
/// Any bytes are a value of the type, and a page is aligned enough for it.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: any 4 bytes are an f32.
unsafe impl Plain for f32 {}
// SAFETY: any 2 bytes are a u16.
unsafe impl Plain for u16 {}
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
        for new in [Zeroed::<f32>::new, Zeroed::side_by_side] {
            for len in [0, 1, 5000] {
                let mut memory = new(len).unwrap();
                assert_eq!(memory.len(), len);
                assert!(memory.iter().all(|v| v.to_bits() == 0));
                memory.fill(1.5);
                assert!(memory.iter().all(|v| *v == 1.5));
            }
        }
    }

    #[test]
    fn too_much_is_none() {
        for len in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 4] {
            assert!(Zeroed::<f32>::new(len).is_none());
            assert!(Zeroed::<f32>::side_by_side(len).is_none());
        }
    }
}
