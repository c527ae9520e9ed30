//! Values on their way to the device and back.

use super::super::driver::check;
use super::super::pinned::{HALF, Inbox};
use super::{Plain, Stream, bytes_of, lock};
use crate::Error;
use cudarc::driver::sys;
use std::ptr;
use std::sync::Mutex;

impl Stream {
    /// Where the values of a small array are on the device, which is kept there: for arrays that are the same in every step.
    pub(in super::super) fn constant<T: Plain>(&self, values: &[T]) -> Result<u64, Error> {
        let bytes = bytes_of(values);
        let mut constants = lock(&self.constants);
        if let Some(at) = constants.find(bytes) {
            return Ok(at);
        }
        let at = constants.keep(bytes, |bytes| self.take(bytes))?;
        let copied = self.upload(at, values);
        if copied.is_err() {
            constants.forget(bytes);
        }
        copied.map(|()| at)
    }

    /// Copies values to the device, in the order of the stream; they may change afterwards.
    pub(in super::super) fn upload<T: Plain>(&self, to: u64, values: &[T]) -> Result<(), Error> {
        let bytes = bytes_of(values);
        if bytes.is_empty() {
            return Ok(());
        }
        self.submit()?;
        let mut outbox = lock(&self.outbox);
        let from = if bytes.len() <= HALF {
            outbox.put(bytes, self.raw)?
        } else {
            // Not pinned: the driver has read it when it returns.
            bytes.as_ptr()
        };
        // SAFETY: the destination has as many bytes, the caller's promise; the source stays as it is until it was read.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes.len(), self.raw) };
        check(result, "a copy to the device")
    }

    /// Reads values of the device, after all work before: the processor waits.
    pub(in super::super) fn download<T: Plain>(
        &self,
        from: u64,
        to: &mut [T],
    ) -> Result<(), Error> {
        self.copy_home(&self.inbox, from, size_of_val(to))?;
        self.make_room()?;
        self.take_home(&self.inbox, to)
    }

    /// As [`Stream::download`] in two parts: asks for `bytes` bytes; [`Stream::fetched`] waits for them. Work that is asked for
    /// between is not waited for.
    pub(in super::super) fn fetch(&self, from: u64, bytes: usize) -> Result<(), Error> {
        self.copy_home(&self.fetched, from, bytes)
    }

    /// What [`Stream::fetch`] was asked for last.
    pub(in super::super) fn fetched<T: Plain>(&self, to: &mut [T]) -> Result<(), Error> {
        self.take_home(&self.fetched, to)
    }

    fn copy_home(&self, inbox: &Mutex<Inbox>, from: u64, bytes: usize) -> Result<(), Error> {
        self.submit()?;
        if bytes == 0 {
            return Ok(());
        }
        let place = lock(inbox).place(bytes)?;
        self.computed.record(self.raw)?;
        self.computed.hold(self.copies)?;
        // SAFETY: both have as many bytes; the memory is read after the wait in `take_home`.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(place.cast(), from, bytes, self.copies) };
        check(result, "a copy from the device")
    }

    fn take_home<T: Plain>(&self, inbox: &Mutex<Inbox>, to: &mut [T]) -> Result<(), Error> {
        let bytes = size_of_val(to);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: a stream of this context.
        let result = unsafe { sys::cuStreamSynchronize(self.copies) };
        check(result, "waiting for the device")?;
        let place = lock(inbox).place(bytes)?;
        // SAFETY: the bytes have arrived; any are values of a `Plain` type of this crate; the places do not overlap.
        unsafe { ptr::copy_nonoverlapping(place, to.as_mut_ptr().cast(), bytes) };
        Ok(())
    }
}
