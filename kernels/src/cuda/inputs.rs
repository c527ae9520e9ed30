//! [`Inputs`]: the small arrays that differ from step to step (positions, slots, tables, tasks), on their way to the device.
//!
//! Owns: one place on the device for all arrays of a step, pinned memory from which they go there, and the order of both. Must
//! not know: what the arrays mean.
//!
//! They go in two parts. A stream for copies brings them from the host to the device while the step before still computes, into
//! one of two halves; then, between two steps, they move to their place, which is the same in all steps. So a step that asks for
//! arrays of about the same sizes in the same order finds each where it was, and can be replayed (`graphs`).

use super::driver::check;
use super::pinned::{Event, Pinned};
use super::pool::Buffer;
use crate::Error;
use cudarc::driver::sys;
use std::collections::HashMap;

/// Bytes of a step's arrays at most.
const MOST: usize = 4 << 20;
/// An array has room to grow, so that those behind it stay where they are: to the next power of two, or of so many bytes.
const STEP: usize = 1 << 16;

/// Arrays of a step.
#[derive(Debug)]
pub(super) struct Inputs {
    pinned: Pinned,
    halves: Buffer,
    place: Buffer,
    /// That a half has arrived on the device, and that it was moved to its place.
    arrived: [Event; 2],
    moved: [Event; 2],
    half: usize,
    used: usize,
    sent: usize,
    /// Where arrays of this step are, and their bytes, by their names.
    known: HashMap<&'static str, Vec<(usize, usize)>>,
}

impl Inputs {
    /// `take`: memory of the device.
    pub(super) fn new(take: impl Fn(usize) -> Result<Buffer, Error>) -> Result<Self, Error> {
        Ok(Self {
            pinned: Pinned::new(2 * MOST)?,
            halves: take(2 * MOST)?,
            place: take(MOST)?,
            arrived: [Event::new()?, Event::new()?],
            moved: [Event::new()?, Event::new()?],
            half: 0,
            used: 0,
            sent: 0,
            known: HashMap::new(),
        })
    }

    /// A new step: arrays begin at the start again.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        if self.used == 0 {
            return Ok(());
        }
        self.half = 1 - self.half;
        (self.used, self.sent) = (0, 0);
        self.known.values_mut().for_each(Vec::clear);
        // What left this half two steps ago.
        self.arrived[self.half].wait()
    }

    /// Whether half of the room of this step is taken.
    pub(super) fn is_half_full(&self) -> bool {
        self.used > MOST / 2
    }

    /// Where an array is on the device once [`Inputs::send`] was called; none if there is no room left in this step. An array of
    /// the same name with the same bytes goes once.
    pub(super) fn put(&mut self, name: &'static str, bytes: &[u8]) -> Option<u64> {
        let known = self.known.entry(name).or_default();
        let start = self.half * MOST;
        let same = |(at, len): &&(usize, usize)| {
            *len == bytes.len() && self.pinned.read(start + at, *len) == bytes
        };
        if let Some((at, _)) = known.iter().find(same) {
            return Some(self.place.at() + *at as u64);
        }
        let room = if bytes.len() < STEP {
            bytes.len().next_power_of_two().max(256)
        } else {
            bytes.len().next_multiple_of(STEP)
        };
        let at = self.used;
        if at + room > MOST {
            return None;
        }
        known.push((at, bytes.len()));
        self.used += room;
        self.pinned.write(start + at, bytes);
        Some(self.place.at() + at as u64)
    }

    /// Has the arrays that were put since brought to their place: by `copies` to the device, by `main` to the place.
    pub(super) fn send(&mut self, copies: sys::CUstream, main: sys::CUstream) -> Result<(), Error> {
        let (half, sent) = (self.half, self.sent);
        let bytes = self.used - sent;
        if bytes == 0 {
            return Ok(());
        }
        let at = (half * MOST + sent) as u64;
        let from = self.pinned.place(half * MOST + sent);
        self.moved[half].hold(copies)?;
        // SAFETY: both have as many bytes; the source is not written again before `arrived` was waited for, nor the destination
        // before it was moved.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(self.halves.at() + at, from.cast(), bytes, copies) };
        check(result, "a step's arrays")?;
        self.arrived[half].record(copies)?;
        self.arrived[half].hold(main)?;
        // SAFETY: both have as many bytes; work that reads what was in this place was asked of `main` before.
        let result = unsafe {
            sys::cuMemcpyDtoDAsync_v2(
                self.place.at() + sent as u64,
                self.halves.at() + at,
                bytes,
                main,
            )
        };
        check(result, "a step's arrays")?;
        self.moved[half].record(main)?;
        self.sent = self.used;
        Ok(())
    }
}
