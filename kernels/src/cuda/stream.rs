//! [`Stream`]: the order of one context's work on a device, its memory, and what of it failed.
//!
//! What it is asked for is kept (`commands`) and given to the device when somebody wants a result ([`Stream::submit`]): all
//! of a step at once, as a graph if the same was asked for before (`graphs`). Copies that a step waits for at its start and at
//! its end have a stream of their own. How work is asked for and given is in `stream/work.rs`, how values come and go in
//! `stream/copies.rs`.
//!
//! Invariants: after a failure nothing more is asked of the device until somebody has taken note ([`Stream::check`]); a device
//! that is broken stays so. Memory goes back to the device only when everything that uses it has been given to the device.

mod copies;
mod work;

use self::work::Work;
use super::blas::Blas;
use super::constants::Constants;
use super::driver::check;
use super::gpu::Gpu;
use super::pinned::{Event, Inbox, Outbox};
use super::pool::{Buffer, Pool};
use super::way::Attend;
use crate::{Error, Fault};
use cudarc::driver::sys;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    // In this order they are dropped: memory before the device.
    work: Mutex<Work>,
    blas: Mutex<Blas>,
    /// See [`crate::Cx::attend_by`].
    attention: Mutex<Option<Attend>>,
    constants: Mutex<Constants>,
    outbox: Mutex<Outbox>,
    inbox: Mutex<Inbox>,
    /// What was asked for by [`Stream::fetch`].
    fetched: Mutex<Inbox>,
    /// That all is computed that a copy home needs.
    computed: Event,
    pool: Arc<Pool>,
    raw: sys::CUstream,
    /// For copies.
    copies: sys::CUstream,
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
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for i64 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for usize {}

/// The bytes of numbers.
pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain`'s promise.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An argument of a kernel: the bytes of a number, an address, or a structure that both sides declare.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arg<'a>(&'a [u8]);

impl<'a> Arg<'a> {
    pub(super) fn of<T: Plain>(value: &'a T) -> Self {
        Self(bytes_of(std::slice::from_ref(value)))
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        self.0
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
        $stream.gpu().function($name).map(|function| {
            $stream.launch(($name, function), $grid, &[$($crate::cuda::stream::Arg::of(&$argument)),*]);
        })
    }};
}
pub(super) use launch;

impl Stream {
    /// A stream on `gpu`.
    pub(crate) fn new(gpu: Arc<Gpu>) -> Result<Arc<Self>, Error> {
        gpu.enter()?;
        let (outbox, computed) = (Outbox::new()?, Event::new()?);
        let copies = make()?;
        let raw = make().inspect_err(|_| {
            // SAFETY: made above, and nobody has it.
            let _ = unsafe { sys::cuStreamDestroy_v2(copies) };
        })?;
        Ok(Arc::new(Self {
            work: Mutex::default(),
            blas: Mutex::default(),
            attention: Mutex::default(),
            constants: Mutex::default(),
            outbox: Mutex::new(outbox),
            inbox: Mutex::default(),
            fetched: Mutex::default(),
            computed,
            pool: Pool::new(Arc::clone(&gpu)),
            raw,
            copies,
            failed: Mutex::default(),
            gpu,
        }))
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub(super) fn blas(&self) -> MutexGuard<'_, Blas> {
        lock(&self.blas)
    }

    /// How attention is to be computed, if somebody wishes something.
    pub(super) fn attention(&self) -> Option<Attend> {
        *lock(&self.attention)
    }

    pub(super) fn wish_attention(&self, way: Option<Attend>) {
        *lock(&self.attention) = way;
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
            lock(&self.work).commands.clear();
            // Copies that were asked for read the arrays' memory to their end.
            let _ = self.wait();
            lock(&self.work).inputs = None;
        }
        Err(Error::Device(fault, message))
    }

    /// Device memory for work on this stream.
    pub(super) fn take(&self, bytes: usize) -> Result<Buffer, Error> {
        self.pool.take(bytes).or_else(|error| {
            // Free memory of other sizes may be what it lacks.
            if self.trim()? > 0 {
                return self.pool.take(bytes);
            }
            Err(error)
        })
    }

    /// As [`Stream::take`], of memory that goes back to the device when it is dropped.
    pub(super) fn take_apart(&self, bytes: usize) -> Result<Buffer, Error> {
        self.pool.take_apart(bytes).or_else(|error| {
            if self.trim()? > 0 {
                return self.pool.take_apart(bytes);
            }
            Err(error)
        })
    }

    /// Whether `buffer` is memory of this stream.
    pub(super) fn owns(&self, buffer: &Buffer) -> bool {
        buffer.of(&self.pool)
    }

    /// Gives memory that nobody has back to the device; returns its bytes.
    pub(super) fn trim(&self) -> Result<usize, Error> {
        self.submit()?;
        Ok(self.pool.trim())
    }

    /// Waits for all work so far.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        self.submit()?;
        for stream in [self.raw, self.copies] {
            // SAFETY: a stream of this context.
            let result = unsafe { sys::cuStreamSynchronize(stream) };
            check(result, "waiting for the device")?;
        }
        Ok(())
    }
}

/// A stream of the driver's, of the context that this thread has entered.
fn make() -> Result<sys::CUstream, Error> {
    let mut raw = ptr::null_mut();
    let apart = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
    // SAFETY: the first argument is written.
    let result = unsafe { sys::cuStreamCreate(&raw mut raw, apart) };
    check(result, "a stream").map(|()| raw)
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        lock(&self.work).commands.clear();
        let _ = self.wait();
        for stream in [self.raw, self.copies] {
            // SAFETY: made by `new`; its work is done.
            let _ = unsafe { sys::cuStreamDestroy_v2(stream) };
        }
    }
}
