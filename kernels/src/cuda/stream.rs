//! [`Stream`]: the order of one context's work on a device, its memory, and what of it failed.
//!
//! What it is asked for is kept (`commands`) and given to the device when somebody wants a result ([`Stream::submit`]): all
//! of a step at once, as a graph if the same was asked for before (`graphs`). Copies that a step waits for at its start and at
//! its end have a stream of their own.
//!
//! Invariants: after a failure nothing more is asked of the device until somebody has taken note ([`Stream::check`]); a device
//! that is broken stays so. Memory goes back to the device only when everything that uses it has been given to the device.

use super::blas::{Blas, Product};
use super::commands::{Command, Commands};
use super::constants::Constants;
use super::driver::check;
use super::gpu::{Function, Gpu};
use super::graphs::{Graphs, Submitted};
use super::inputs::Inputs;
use super::pinned::{Event, HALF, Inbox, Outbox};
use super::pool::{Buffer, Pool};
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

/// What was asked for and not yet given to the device.
#[derive(Debug, Default)]
struct Work {
    commands: Commands,
    /// Made when a step first has some.
    inputs: Option<Inputs>,
    graphs: Graphs,
}

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
            let mut work = lock(&self.work);
            work.commands.clear();
            work.inputs = None;
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

    /// A new step begins: arrays that it is given lie where those of the last step did. What was not given to the device is.
    pub(crate) fn begin(&self) {
        self.attempt(|| {
            self.submit()?;
            lock(&self.work)
                .inputs
                .as_mut()
                .map_or(Ok(()), Inputs::begin)
        });
    }

    /// From now on no graphs are made.
    pub(crate) fn turn_graphs_off(&self) {
        lock(&self.work).graphs.turn_off();
    }

    /// How work was given to the device so far.
    pub(crate) fn submitted(&self) -> Submitted {
        lock(&self.work).graphs.submitted()
    }

    /// Gives all that was asked for to the device.
    pub(super) fn submit(&self) -> Result<(), Error> {
        let mut work = lock(&self.work);
        let Work {
            commands,
            inputs,
            graphs,
        } = &mut *work;
        if let Some(inputs) = inputs {
            inputs.send(self.copies, self.raw)?;
        }
        if commands.is_empty() {
            return Ok(());
        }
        let done = graphs.run(commands, self.raw, || {
            commands.iter().try_for_each(|command| self.issue(&command))
        });
        commands.clear();
        done
    }

    /// Asks the device for one thing.
    fn issue(&self, command: &Command<'_>) -> Result<(), Error> {
        match command {
            Command::Launch(launch) => {
                let [x, y, z] = launch
                    .grid
                    .blocks
                    .map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                let shared = u32::try_from(launch.grid.shared).unwrap_or(u32::MAX);
                let mut places = launch.places();
                // SAFETY: a kernel of this device; the list has an address for each of its parameters, which the driver copies
                // now; what those point to on the device is memory that work on this stream may use until all of it is done.
                let result = unsafe {
                    sys::cuLaunchKernel(
                        launch.function.0,
                        x,
                        y,
                        z,
                        launch.grid.threads,
                        1,
                        1,
                        shared,
                        self.raw,
                        places.as_mut_ptr(),
                        ptr::null_mut(),
                    )
                };
                if result == sys::CUresult::CUDA_SUCCESS {
                    return Ok(());
                }
                let name = self.gpu.name_of(launch.function);
                check(result, &format!("kernel {name}"))
            }
            Command::Multiply(product, algorithm) => {
                self.blas().multiply(product, algorithm, self.raw)
            }
            Command::Copy { from, to, bytes } => {
                // SAFETY: both have as many bytes and do not overlap, the promise of who asked.
                let result = unsafe { sys::cuMemcpyDtoDAsync_v2(*to, *from, *bytes, self.raw) };
                check(result, "a copy on the device")
            }
            Command::Fill { at, byte, bytes } => {
                // SAFETY: the destination has as many bytes, the promise of who asked.
                let result = unsafe { sys::cuMemsetD8Async(*at, *byte, *bytes, self.raw) };
                check(result, "filling device memory")
            }
        }
    }

    /// Asks for `function`, whose parameters are `arguments`, in the order of the stream.
    pub(super) fn launch(
        &self,
        (name, function): (&str, Function),
        grid: Grid,
        arguments: &[Arg<'_>],
    ) {
        if grid.blocks.contains(&0) {
            return;
        }
        #[cfg(feature = "cuda-emu")]
        super::stand_in::agree(name, arguments.iter().map(|argument| argument.0.len()));
        debug_assert!(arguments.iter().all(|a| !a.0.is_empty()), "{name}");
        lock(&self.work).commands.launch(function, grid, arguments);
    }

    /// Asks for a product, in the order of the stream.
    pub(super) fn multiply(&self, product: &Product) -> Result<(), Error> {
        if product.rows == 0 || product.outputs == 0 {
            return Ok(());
        }
        // Taking memory may give work to the device: nothing may be locked then.
        let lacks = self.blas().lacks(self.gpu.info().number)?;
        if let Some(bytes) = lacks {
            let workspace = self.take(bytes)?;
            self.blas().start(workspace)?;
        }
        let algorithm = self.blas().algorithm(product)?;
        lock(&self.work).commands.multiply(product, &algorithm);
        Ok(())
    }

    /// Where an array of this step is on the device, for the step's work. `name`: what it is, for one of each name and contents.
    pub(super) fn input<T: Plain>(&self, name: &'static str, values: &[T]) -> Result<u64, Error> {
        let bytes = bytes_of(values);
        if let Some(at) = self.put(name, bytes)? {
            return Ok(at);
        }
        // What has come so far goes ahead.
        self.submit()?;
        if let Some(inputs) = &mut lock(&self.work).inputs {
            inputs.begin()?;
        }
        let full = || Error::Device(Fault::Other, format!("no room for {name} in a step"));
        self.put(name, bytes)?.ok_or_else(full)
    }

    fn put(&self, name: &'static str, bytes: &[u8]) -> Result<Option<u64>, Error> {
        if lock(&self.work).inputs.is_none() {
            let inputs = Inputs::new(|bytes| self.take(bytes))?;
            lock(&self.work).inputs = Some(inputs);
        }
        let mut work = lock(&self.work);
        work.inputs
            .as_mut()
            .map_or(Ok(None), |i| i.put(name, bytes))
    }

    /// Where the values of a small array are on the device, which is kept there: for arrays that are the same in every step.
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

    /// Copies between places of the device, in the order of the stream.
    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) {
        if bytes > 0 {
            lock(&self.work).commands.copy(from, to, bytes);
        }
    }

    /// Writes zeros, in the order of the stream.
    pub(super) fn clear(&self, at: u64, bytes: usize) {
        self.fill(at, 0, bytes);
    }

    /// Writes the same byte everywhere, in the order of the stream.
    pub(super) fn fill(&self, at: u64, byte: u8, bytes: usize) {
        if bytes > 0 {
            lock(&self.work).commands.fill(at, byte, bytes);
        }
    }

    /// Reads values of the device, after all work before: the processor waits.
    pub(super) fn download<T: Plain>(&self, from: u64, to: &mut [T]) -> Result<(), Error> {
        self.copy_home(&self.inbox, from, size_of_val(to))?;
        self.take_home(&self.inbox, to)
    }

    /// As [`Stream::download`] in two parts: asks for `bytes` bytes; [`Stream::fetched`] waits for them. Work that is asked for
    /// between is not waited for.
    pub(super) fn fetch(&self, from: u64, bytes: usize) -> Result<(), Error> {
        self.copy_home(&self.fetched, from, bytes)
    }

    /// What [`Stream::fetch`] was asked for last.
    pub(super) fn fetched<T: Plain>(&self, to: &mut [T]) -> Result<(), Error> {
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
