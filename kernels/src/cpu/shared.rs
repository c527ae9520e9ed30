//! [`Shared`]: a slice that the chunks of a region write in disjoint parts.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice, borrowed by all chunks of a region at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by an unsafe function whose callers promise that they do not overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// No two parts that overlap may be in use at a time.
    #[track_caller]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice, by the assertion; not aliased, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Where a part begins, for who has some of it only.
    #[track_caller]
    pub(crate) fn start_of(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len);
        self.start.wrapping_add(range.start)
    }

    /// A part of the slice, to be shared in its turn.
    #[track_caller]
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len);
        Self {
            start: self.start.wrapping_add(range.start),
            len: range.len(),
            slice: PhantomData,
        }
    }

    /// Writes one value. Keeps what was there from being dropped, so it is for plain numbers.
    ///
    /// # Safety
    /// Nothing else uses this place at the time.
    #[inline]
    #[track_caller]
    pub(crate) unsafe fn set(&self, at: usize, value: T) {
        assert!(at < self.len);
        // SAFETY: inside the slice, by the assertion; not aliased, by the caller's promise.
        unsafe { self.start.add(at).write(value) }
    }
}
