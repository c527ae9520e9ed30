//! [`Stream`]: the order of one context's work on a device, its memory, and what of it failed.
//!
//! Invariant: after a failure nothing more is asked of the device until somebody has taken note ([`Stream::check`]); a device
//! that is broken stays so.

use super::blas::Blas;
use super::constants::Constants;
use super::driver::check;
use super::gpu::{Function, Gpu};
use super::pinned::{HALF, Inbox, Outbox};
use super::pool::{Buffer, Pool};
use crate::{Error, Fault};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    // In this order they are dropped: memory before the device.
    blas: Mutex<Blas>,
    constants: Mutex<Constants>,
    outbox: Mutex<Outbox>,
    inbox: Mutex<Inbox>,
    pool: Arc<Pool>,
    raw: sys::CUstream,
    failed: Mutex<Option<(Fault, String)>>,
    gpu: Arc<Gpu>,
}
// SAFETY: handles of the driver, which may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above; all else is behind locks.
unsafe impl Sync for Stream {}

/// Plain numbers, whose bytes may be copied.
///
/// # Safety
/// The type has no padding.
pub(super) unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// The bytes of numbers.
pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain`'s promise.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An argument of a kernel: a number, an address, or a structure that both sides declare.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arg<'a> {
    at: *const c_void,
    bytes: usize,
    value: std::marker::PhantomData<&'a ()>,
}

impl<'a> Arg<'a> {
    pub(super) fn of<T: Copy>(value: &'a T) -> Self {
        Self {
            at: ptr::from_ref(value).cast(),
            bytes: size_of::<T>(),
            value: std::marker::PhantomData,
        }
    }
}

/// How a kernel is launched: blocks, threads of each, bytes of dynamic shared memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: [usize; 3],
    pub(super) threads: u32,
    pub(super) shared: usize,
}

impl Grid {
    /// `blocks` blocks in a row.
    pub(super) fn of(blocks: usize, threads: u32) -> Self {
        Self::with([blocks, 1, 1], threads)
    }

    pub(super) fn with(blocks: [usize; 3], threads: u32) -> Self {
        Self {
            blocks,
            threads,
            shared: 0,
        }
    }
}

/// `launch!(stream, "kernel", grid; arguments...)`. The kernel's parameters have these types, in this order.
macro_rules! launch {
    ($stream:expr, $name:expr, $grid:expr; $($argument:expr),* $(,)?) => {{
        let function = $stream.gpu().function($name)?;
        $stream.launch(($name, function), $grid, &[$($crate::cuda::stream::Arg::of(&$argument)),*])
    }};
}
pub(super) use launch;

impl Stream {
    /// A stream on `gpu`.
    pub(crate) fn new(gpu: Arc<Gpu>) -> Result<Arc<Self>, Error> {
        gpu.enter()?;
        let mut raw = ptr::null_mut();
        let apart = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the first argument is written.
        let result = unsafe { sys::cuStreamCreate(&raw mut raw, apart) };
        check(result, "a stream")?;
        Ok(Arc::new(Self {
            blas: Mutex::default(),
            constants: Mutex::default(),
            outbox: Mutex::new(Outbox::new()?),
            inbox: Mutex::default(),
            pool: Pool::new(Arc::clone(&gpu)),
            raw,
            failed: Mutex::default(),
            gpu,
        }))
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    pub(super) fn blas(&self) -> MutexGuard<'_, Blas> {
        lock(&self.blas)
    }

    /// Does `work`, unless something failed before; keeps what fails.
    pub(crate) fn attempt<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        if lock(&self.failed).is_some() {
            return None;
        }
        match self.gpu.enter().and_then(|()| work()) {
            Ok(done) => Some(done),
            Err(Error::Device(fault, message)) => {
                self.fail(fault, message);
                None
            }
            Err(error) => {
                self.fail(Fault::Other, error.to_string());
                None
            }
        }
    }

    fn fail(&self, fault: Fault, message: String) {
        lock(&self.failed).get_or_insert((fault, message));
    }

    /// What failed since this was last asked; whatever failed, the values of the step are lost.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut failed = lock(&self.failed);
        let Some((fault, message)) = &*failed else {
            return Ok(());
        };
        let (fault, message) = (*fault, message.clone());
        if fault != Fault::Broken {
            *failed = None;
            // Arrays may have been noted whose copies were never made.
            lock(&self.constants).clear();
        }
        Err(Error::Device(fault, message))
    }

    /// Device memory for work on this stream.
    pub(super) fn take(&self, bytes: usize) -> Result<Buffer, Error> {
        self.pool.take(bytes)
    }

    /// As [`Stream::take`], of memory that goes back to the device when it is dropped.
    pub(super) fn take_apart(&self, bytes: usize) -> Result<Buffer, Error> {
        self.pool.take_apart(bytes)
    }

    /// Whether `buffer` is memory of this stream.
    pub(super) fn owns(&self, buffer: &Buffer) -> bool {
        buffer.of(&self.pool)
    }

    /// Gives memory that nobody has back to the device.
    pub(super) fn trim(&self) {
        self.pool.trim();
    }

    /// Asks for `function`, whose parameters are `arguments`, in the order of the stream.
    pub(super) fn launch(
        &self,
        (name, function): (&str, Function),
        grid: Grid,
        arguments: &[Arg<'_>],
    ) -> Result<(), Error> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        #[cfg(feature = "cuda-emu")]
        super::stand_in::agree(name, arguments.iter().map(|argument| argument.bytes));
        debug_assert!(arguments.iter().all(|argument| argument.bytes > 0));
        let [x, y, z] = grid.blocks.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let shared = u32::try_from(grid.shared).unwrap_or(u32::MAX);
        let mut all = [ptr::null_mut(); 16];
        for (to, argument) in all.iter_mut().zip(arguments) {
            *to = argument.at.cast_mut();
        }
        // SAFETY: a kernel of this device; the list has an address for each of its parameters, which the driver copies now;
        // what those point to on the device is memory that work on this stream may use until all of it is done.
        let result = unsafe {
            sys::cuLaunchKernel(
                function.0,
                x,
                y,
                z,
                grid.threads,
                1,
                1,
                shared,
                self.raw,
                all.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(result, &format!("kernel {name}"))
    }

    /// Where the values of a small array are on the device.
    pub(super) fn constant<T: Plain>(&self, values: &[T]) -> Result<u64, Error> {
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
    pub(super) fn upload<T: Plain>(&self, to: u64, values: &[T]) -> Result<(), Error> {
        let bytes = bytes_of(values);
        if bytes.is_empty() {
            return Ok(());
        }
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

    /// Copies between places of the device, in the order of the stream.
    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both have as many bytes and do not overlap, the caller's promise.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.raw) };
        check(result, "a copy on the device")
    }

    /// Writes zeros, in the order of the stream.
    pub(super) fn clear(&self, at: u64, bytes: usize) -> Result<(), Error> {
        self.fill(at, 0, bytes)
    }

    /// Writes the same byte everywhere, in the order of the stream.
    pub(super) fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the destination has as many bytes, the caller's promise.
        let result = unsafe { sys::cuMemsetD8Async(at, byte, bytes, self.raw) };
        check(result, "filling device memory")
    }

    /// Reads values of the device, after all work before: the processor waits.
    pub(super) fn download<T: Plain>(&self, from: u64, to: &mut [T]) -> Result<(), Error> {
        let bytes = size_of_val(to);
        if bytes == 0 {
            return Ok(());
        }
        let mut inbox = lock(&self.inbox);
        let place = inbox.place(bytes)?;
        // SAFETY: both have as many bytes; the memory is read after the wait below.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(place.cast(), from, bytes, self.raw) };
        check(result, "a copy from the device")?;
        self.wait()?;
        // SAFETY: the bytes have arrived; any are values of a `Plain` type of this crate; the places do not overlap.
        unsafe { ptr::copy_nonoverlapping(place, to.as_mut_ptr().cast(), bytes) };
        Ok(())
    }

    /// Waits for all work so far.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        // SAFETY: a stream of this context.
        check(
            unsafe { sys::cuStreamSynchronize(self.raw) },
            "waiting for the device",
        )
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        let _ = self.wait();
        // SAFETY: made by `new`; its work is done.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
    }
}
