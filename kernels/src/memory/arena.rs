//! [`Part`]: memory of a weight, beside that of the others, so that all of them lie in huge pages.
//!
//! Most weights are smaller than a huge page (2 MiB); each in a map of its own would lie in small pages, where the processor
//! stops reading ahead at every 4 KiB and looks up an address for each of them.
//!
//! Invariant: parts never overlap, and a part is zero when it is handed out. A segment is given back to the system with its
//! last part; before that, the huge pages that lie wholly in a hole are.

use memmap2::{Advice, MmapMut, UncheckedAdvice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What the system hands out as one huge page on x86-64 and aarch64.
const HUGE_PAGE: usize = 2 << 20;
/// Parts begin at a multiple of this.
const PAGE: usize = 4 << 10;
/// A segment, unless a part needs a larger one. Its pages are taken as they are written.
const SEGMENT: usize = 64 << 20;

/// Where there may be room.
static SEGMENTS: Mutex<Vec<Weak<Segment>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Segment {
    map: MmapMut,
    /// Where the first huge page begins in the map.
    start: usize,
    room: Mutex<Room>,
}

/// What is free in a segment, in bytes from its start.
#[derive(Debug)]
struct Room {
    /// Ascending, apart from each other, none empty.
    holes: Vec<Range<usize>>,
    /// Everything from here on was never handed out, so it is zero.
    fresh: usize,
}

/// Some bytes of a segment.
#[derive(Debug)]
pub(super) struct Part {
    segment: Arc<Segment>,
    range: Range<usize>,
}

impl Part {
    /// `bytes` zeros (more than none), at a multiple of 4 KiB; none if the system has no such memory.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(PAGE)?;
        let mut segments = lock(&SEGMENTS);
        segments.retain(|segment| segment.strong_count() > 0);
        let known = segments.iter().filter_map(Weak::upgrade);
        for segment in known {
            if let Some(range) = segment.take(bytes) {
                return Some(Self { segment, range });
            }
        }
        let segment = Arc::new(Segment::new(bytes.max(SEGMENT))?);
        segments.push(Arc::downgrade(&segment));
        let range = segment.take(bytes)?;
        Some(Self { segment, range })
    }

    /// Where it begins: valid for reads and writes of its bytes as long as the part lives, by whoever may use the part.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.segment.at(self.range.start)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.segment.give_back(self.range.clone());
    }
}

impl Segment {
    fn new(bytes: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(HUGE_PAGE)?;
        let map = MmapMut::map_anon(bytes.checked_add(HUGE_PAGE)?).ok()?;
        #[cfg(target_os = "linux")]
        // A wish: a system without them refuses, and nothing is different.
        let _ = map.advise(Advice::HugePage);
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        let room = Mutex::new(Room {
            holes: std::iter::once(0..bytes).collect(),
            fresh: 0,
        });
        Some(Self { map, start, room })
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.map
            .as_ptr()
            .wrapping_add(self.start + offset)
            .cast_mut()
    }

    /// `bytes` zeros out of the first hole that has them.
    fn take(&self, bytes: usize) -> Option<Range<usize>> {
        let mut room = lock(&self.room);
        let at = room.holes.iter().position(|hole| hole.len() >= bytes)?;
        let start = room.holes[at].start;
        let range = start..start + bytes;
        room.holes[at].start = range.end;
        room.holes.retain(|hole| !hole.is_empty());
        let used = range.end.min(room.fresh).saturating_sub(start);
        room.fresh = room.fresh.max(range.end);
        // SAFETY: inside the map, and nobody else has this range: it was a hole.
        unsafe { self.at(start).write_bytes(0, used) };
        Some(range)
    }

    fn give_back(&self, range: Range<usize>) {
        let mut room = lock(&self.room);
        let at = room.holes.partition_point(|hole| hole.end < range.start);
        let joins = |hole: &Range<usize>| hole.start <= range.end;
        let touching = room.holes[at..]
            .iter()
            .take_while(|hole| joins(hole))
            .count();
        let parts = &room.holes[at..at + touching];
        let start = parts
            .first()
            .map_or(range.start, |hole| hole.start.min(range.start));
        let end = parts
            .last()
            .map_or(range.end, |hole| hole.end.max(range.end));
        room.holes.drain(at..at + touching);
        room.holes.insert(at, start..end);
        // Huge pages that this part had a share in and that nobody has a share in any more.
        let first = start
            .next_multiple_of(HUGE_PAGE)
            .max(range.start / HUGE_PAGE * HUGE_PAGE);
        let last = (end / HUGE_PAGE * HUGE_PAGE).min(range.end.next_multiple_of(HUGE_PAGE));
        if first < last {
            // SAFETY: these pages lie in a hole, and the lock is held: nobody has them, and their content may turn to zeros.
            // If the system refuses, they stay as they are.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    UncheckedAdvice::DontNeed,
                    self.start + first,
                    last - first,
                )
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(part: &mut Part) -> &mut [u8] {
        // SAFETY: the part is borrowed, and its memory is valid for its bytes.
        unsafe { std::slice::from_raw_parts_mut(part.as_ptr(), part.range.len()) }
    }

    #[test]
    fn parts_are_zero_and_apart_and_what_was_freed_is_used_again() {
        let segment = Segment::new(8 * HUGE_PAGE).unwrap();
        let a = segment.take(3 * PAGE).unwrap();
        let b = segment.take(2 * HUGE_PAGE).unwrap();
        let c = segment.take(PAGE).unwrap();
        assert_eq!((a.clone(), b.start, c.start), (0..3 * PAGE, a.end, b.end));
        segment.give_back(a.clone());
        segment.give_back(c.clone());
        let holes = || lock(&segment.room).holes.clone();
        assert_eq!(holes(), [a.clone(), c.start..8 * HUGE_PAGE]);
        assert_eq!(segment.take(PAGE), Some(0..PAGE));
        assert_eq!(segment.take(3 * PAGE), Some(c.start..c.start + 3 * PAGE));
        assert_eq!(segment.take(8 * HUGE_PAGE), None);
        segment.give_back(b);
        assert_eq!(holes()[0], PAGE..c.start);
        segment.give_back(0..PAGE);
        segment.give_back(c.start..c.start + 3 * PAGE);
        assert_eq!((holes().len(), holes()[0].clone()), (1, 0..8 * HUGE_PAGE));
    }

    #[test]
    fn what_is_handed_out_again_is_zero() {
        let segment = Arc::new(Segment::new(8 * HUGE_PAGE).unwrap());
        let take = |len| Part {
            range: segment.take(len).unwrap(),
            segment: Arc::clone(&segment),
        };
        for len in [5 * PAGE, 2 * HUGE_PAGE + PAGE] {
            let mut first = take(len);
            assert!(bytes(&mut first).iter().all(|b| *b == 0));
            bytes(&mut first).fill(7);
            let range = first.range.clone();
            drop(first);
            let mut again = take(len);
            assert_eq!(again.range, range);
            assert!(bytes(&mut again).iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn a_large_part_has_its_own_segment_and_too_large_is_none() {
        let mut large = Part::new(SEGMENT + 1).unwrap();
        assert!(large.range.len() > SEGMENT);
        bytes(&mut large)[SEGMENT] = 1;
        assert_eq!(large.as_ptr().align_offset(PAGE), 0);
        assert!(Part::new(usize::MAX).is_none() && Part::new(usize::MAX - HUGE_PAGE).is_none());
    }
}
