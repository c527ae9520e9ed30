//! What a stream is asked for, and how it is given to the device.

use super::super::blas::Product;
use super::super::commands::{Command, Commands};
use super::super::driver::check;
use super::super::gpu::Function;
use super::super::graphs::{Graphs, Submitted};
use super::super::inputs::Inputs;
use super::super::pool::Buffer;
use super::super::sums::Residual;
use super::{Arg, Grid, Plain, Stream, bytes_of, lock};
use crate::Error;
use cudarc::driver::sys;
use std::ptr;

/// What was asked for and not yet given to the device.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) commands: Commands,
    /// Made when a step first has some.
    pub(super) inputs: Option<Inputs>,
    /// Arrays of this step that had no room among the inputs.
    pub(super) large: Vec<Buffer>,
    graphs: Graphs,
}

impl Stream {
    /// A new step begins: arrays that it is given lie where those of the last step did. What was not given to the device is.
    pub(crate) fn begin(&self) {
        self.attempt(|| {
            self.submit()?;
            let mut work = lock(&self.work);
            work.large.clear();
            work.inputs.as_mut().map_or(Ok(()), Inputs::begin)
        });
    }

    /// Makes room for the arrays of who never begins a step. No operation may have asked for one that it has not used.
    pub(super) fn make_room(&self) -> Result<(), Error> {
        let mut work = lock(&self.work);
        work.large.clear();
        match &mut work.inputs {
            Some(inputs) if inputs.is_half_full() => inputs.begin(),
            _ => Ok(()),
        }
    }

    /// From now on no graphs are made.
    pub(crate) fn turn_graphs_off(&self) {
        lock(&self.work).graphs.turn_off();
    }

    /// How work was given to the device so far.
    pub(crate) fn submitted(&self) -> Submitted {
        lock(&self.work).graphs.submitted()
    }

    /// Asks for `function`, whose parameters are `arguments`, in the order of the stream.
    pub(in super::super) fn launch(
        &self,
        (name, function): (&str, Function),
        grid: Grid,
        arguments: &[Arg<'_>],
    ) {
        if grid.blocks.contains(&0) {
            return;
        }
        #[cfg(feature = "cuda-emu")]
        super::super::stand_in::agree(name, arguments.iter().map(|argument| argument.0.len()));
        debug_assert!(arguments.iter().all(|a| !a.0.is_empty()), "{name}");
        lock(&self.work).commands.launch(function, grid, arguments);
    }

    /// What was asked for last adds `residual`, and does nothing else.
    pub(in super::super) fn last_adds(&self, residual: Residual) {
        lock(&self.work).commands.last_adds(residual);
    }

    /// What was asked for last, if that is to add to these `(rows, width)` at `to`, and it is not on its way yet: it is not asked for
    /// any more, who calls adds it.
    pub(in super::super) fn take_residual(
        &self,
        to: u64,
        shape: (usize, usize),
    ) -> Option<Residual> {
        lock(&self.work).commands.take_residual(to, shape)
    }

    /// Asks for a product, in the order of the stream.
    pub(in super::super) fn multiply(&self, product: &Product) -> Result<(), Error> {
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

    /// Copies between places of the device, in the order of the stream.
    pub(in super::super) fn copy(&self, from: u64, to: u64, bytes: usize) {
        if bytes > 0 {
            lock(&self.work).commands.copy(from, to, bytes);
        }
    }

    /// Writes zeros, in the order of the stream.
    pub(in super::super) fn clear(&self, at: u64, bytes: usize) {
        self.fill(at, 0, bytes);
    }

    /// Writes the same byte everywhere, in the order of the stream.
    pub(in super::super) fn fill(&self, at: u64, byte: u8, bytes: usize) {
        if bytes > 0 {
            lock(&self.work).commands.fill(at, byte, bytes);
        }
    }

    /// Where an array of this step is on the device, for the step's work. `name`: what it is, for one of each name and contents.
    pub(in super::super) fn input<T: Plain>(
        &self,
        name: &'static str,
        values: &[T],
    ) -> Result<u64, Error> {
        let bytes = bytes_of(values);
        if let Some(at) = self.put(name, bytes)? {
            return Ok(at);
        }
        // Its own memory, until the step is over.
        let memory = self.take(bytes.len())?;
        let at = memory.at();
        self.upload(at, values)?;
        lock(&self.work).large.push(memory);
        Ok(at)
    }

    fn put(&self, name: &'static str, bytes: &[u8]) -> Result<Option<u64>, Error> {
        if lock(&self.work).inputs.is_none() {
            let inputs = Inputs::new(|bytes| self.take(bytes))?;
            lock(&self.work).inputs = Some(inputs);
        }
        let mut work = lock(&self.work);
        let inputs = work.inputs.as_mut();
        Ok(inputs.and_then(|inputs| inputs.put(name, bytes)))
    }

    /// Gives all that was asked for to the device.
    pub(in super::super) fn submit(&self) -> Result<(), Error> {
        let mut work = lock(&self.work);
        let Work {
            commands,
            inputs,
            graphs,
            ..
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
}
