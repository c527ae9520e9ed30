//! Pinned host memory, which the device reads and writes while the processor goes on: [`Outbox`] for values on their way to the
//! device, [`Inbox`] for those on their way back; and [`Event`], by which streams and the processor wait for copies.

use super::driver::check;
use crate::Error;
use cudarc::driver::sys;
use std::ptr::{self, NonNull};

/// Pinned memory.
#[derive(Debug)]
pub(super) struct Pinned {
    at: NonNull<u8>,
    bytes: usize,
}
// SAFETY: plain memory of its own.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(super) fn new(bytes: usize) -> Result<Self, Error> {
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

    /// The place of byte `at`.
    pub(super) fn place(&self, at: usize) -> *mut u8 {
        assert!(at <= self.bytes, "pinned memory");
        // SAFETY: inside of the memory, or at its end.
        unsafe { self.at.as_ptr().add(at) }
    }

    /// Writes bytes from `at` on. No copy may be reading them.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.bytes, "pinned memory");
        // SAFETY: inside of the memory, which is this one's alone.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.place(at), bytes.len()) };
    }

    /// `len` bytes from `at` on, which were written.
    pub(super) fn read(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.bytes, "pinned memory");
        // SAFETY: inside of the memory, and written; the device only reads it.
        unsafe { std::slice::from_raw_parts(self.place(at), len) }
    }
}

/// A place in a stream's work. One that was never recorded is passed.
#[derive(Debug)]
pub(super) struct Event(sys::CUevent);
// SAFETY: a handle of the driver, which may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    pub(super) fn new() -> Result<Self, Error> {
        let mut event = ptr::null_mut();
        let untimed = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the first argument is written.
        let result = unsafe { sys::cuEventCreate(&raw mut event, untimed) };
        check(result, "an event").map(|()| Self(event))
    }

    /// From now on it means all that `stream` was asked for so far.
    pub(super) fn record(&self, stream: sys::CUstream) -> Result<(), Error> {
        // SAFETY: an event and a stream of this context.
        check(unsafe { sys::cuEventRecord(self.0, stream) }, "an event")
    }

    /// Has later work of `stream` wait for it.
    pub(super) fn hold(&self, stream: sys::CUstream) -> Result<(), Error> {
        // SAFETY: an event and a stream of this context.
        let result = unsafe { sys::cuStreamWaitEvent(stream, self.0, 0) };
        check(result, "waiting for an event")
    }

    /// Waits for it.
    pub(super) fn wait(&self) -> Result<(), Error> {
        // SAFETY: an event of this context.
        let result = unsafe { sys::cuEventSynchronize(self.0) };
        check(result, "waiting for a copy")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
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
    /// That what is in a half has arrived.
    arrived: [Event; 2],
    half: usize,
    at: usize,
}

impl Outbox {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self {
            memory: Pinned::new(2 * HALF)?,
            arrived: [Event::new()?, Event::new()?],
            half: 0,
            at: 0,
        })
    }

    /// A place that holds `bytes`, of at most [`HALF`], until the copy that `stream` is asked for next is done.
    pub(super) fn put(&mut self, bytes: &[u8], stream: sys::CUstream) -> Result<*const u8, Error> {
        assert!(bytes.len() <= HALF, "a large array");
        if self.at + bytes.len() > HALF {
            self.arrived[self.half].record(stream)?;
            (self.half, self.at) = (1 - self.half, 0);
            self.arrived[self.half].wait()?;
        }
        let at = self.half * HALF + self.at;
        self.memory.write(at, bytes);
        self.at = (self.at + bytes.len()).next_multiple_of(16);
        Ok(self.memory.place(at))
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
