//! Pinned host memory, which the device reads and writes while the processor goes on: [`Outbox`] for small arrays on their way to
//! the device, [`Inbox`] for values on their way back.

use super::driver::check;
use crate::Error;
use cudarc::driver::sys;
use std::ptr::{self, NonNull};

/// Pinned memory.
#[derive(Debug)]
struct Pinned {
    at: NonNull<u8>,
    bytes: usize,
}
// SAFETY: plain memory of its own.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(bytes: usize) -> Result<Self, Error> {
        let mut at = ptr::null_mut();
        let what = format!("{bytes} bytes of pinned memory");
        // SAFETY: the first argument is written.
        check(unsafe { sys::cuMemAllocHost_v2(&raw mut at, bytes) }, &what)?;
        let at = NonNull::new(at.cast());
        let null = || Error::OutOfMemory {
            what: "pinned memory",
            bytes,
        };
        Ok(Self {
            at: at.ok_or_else(null)?,
            bytes,
        })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: of `cuMemAllocHost`; who waits for copies with it is dropped after they are done (`Stream`'s drop waits).
        let _ = unsafe { sys::cuMemFreeHost(self.at.as_ptr().cast()) };
    }
}

/// Bytes of one half of an outbox. What is larger goes the slow way.
pub(super) const HALF: usize = 1 << 20;

/// Two halves, filled in turn: one is filled again when what was copied from it has arrived.
#[derive(Debug)]
pub(super) struct Outbox {
    memory: Pinned,
    /// Set when what is in a half was asked for.
    events: [sys::CUevent; 2],
    half: usize,
    at: usize,
}
// SAFETY: handles of the driver, which may be used from any thread.
unsafe impl Send for Outbox {}

impl Outbox {
    pub(super) fn new() -> Result<Self, Error> {
        let mut outbox = Self {
            memory: Pinned::new(2 * HALF)?,
            events: [ptr::null_mut(); 2],
            half: 0,
            at: 0,
        };
        let untimed = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        for event in &mut outbox.events {
            // SAFETY: the first argument is written.
            check(unsafe { sys::cuEventCreate(event, untimed) }, "an event")?;
        }
        Ok(outbox)
    }

    /// A place that holds `bytes`, of at most [`HALF`], until the copy that `stream` is asked for next is done.
    pub(super) fn put(&mut self, bytes: &[u8], stream: sys::CUstream) -> Result<*const u8, Error> {
        assert!(bytes.len() <= HALF, "a large array");
        if self.at + bytes.len() > HALF {
            // SAFETY: an event and a stream of this context.
            let result = unsafe { sys::cuEventRecord(self.events[self.half], stream) };
            check(result, "an event")?;
            (self.half, self.at) = (1 - self.half, 0);
            // SAFETY: an event of this context; one that was never recorded is done.
            let result = unsafe { sys::cuEventSynchronize(self.events[self.half]) };
            check(result, "waiting for a copy")?;
        }
        // SAFETY: the place is inside of the memory, and no copy reads it: the last ones from this half are done.
        let place = unsafe {
            let place = self.memory.at.as_ptr().add(self.half * HALF + self.at);
            ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
            place
        };
        self.at = (self.at + bytes.len()).next_multiple_of(16);
        Ok(place)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        for event in self.events {
            if !event.is_null() {
                // SAFETY: made by `new`.
                let _ = unsafe { sys::cuEventDestroy_v2(event) };
            }
        }
    }
}

/// Where values arrive; it grows to the most that were asked for.
#[derive(Debug, Default)]
pub(super) struct Inbox(Option<Pinned>);

impl Inbox {
    /// A place for `bytes` bytes.
    pub(super) fn place(&mut self, bytes: usize) -> Result<*mut u8, Error> {
        if self.0.as_ref().is_none_or(|memory| memory.bytes < bytes) {
            self.0 = None;
            self.0 = Some(Pinned::new(bytes.next_power_of_two())?);
        }
        Ok(self
            .0
            .as_ref()
            .map_or(ptr::null_mut(), |memory| memory.at.as_ptr()))
    }
}
