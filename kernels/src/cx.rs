//! [`Cx`]: what an operation runs with: the team and its class there, the CPU path, scratch memory.

use crate::attention::Share;
use crate::cpu::shared::Shared;
#[cfg(feature = "cuda")]
use crate::cuda::{Gpu, Stream};
use crate::linear::Group;
use crate::trace::Trace;
use crate::{Class, Error, Rows, Team};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The instruction set a CPU operation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, any processor.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// The same and AVX-VNNI: what processors without AVX-512 multiply bytes with.
    AvxVnni,
    /// AVX-512 F, BW, VL, VNNI and BF16.
    Avx512,
}

impl Isa {
    /// All paths, the fastest last.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512];

    /// The paths that this processor has, the fastest last.
    pub fn here() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_here())
    }

    /// The best path of this processor.
    pub fn detect() -> Self {
        Self::Avx512.or_less()
    }

    /// This path or, if the processor lacks it, the best below it that it has.
    pub(crate) fn or_less(self) -> Self {
        let fits = |isa: &Self| *isa <= self && isa.is_here();
        let found = Self::ALL.into_iter().rev().find(fits);
        found.unwrap_or(Self::Portable)
    }

    /// Whether this processor has it. None of them implies another but the first.
    fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let wide = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
            match self {
                Self::Portable => true,
                Self::Avx2 => avx2,
                Self::AvxVnni => avx2 && has!("avxvnni"),
                Self::Avx512 => avx2 && wide && has!("avx512vnni") && has!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// What the faster paths need of the processor, and whether it has that.
    pub fn features() -> Vec<(&'static str, bool)> {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            vec![
                ("avx2", has!("avx2")),
                ("fma", has!("fma")),
                ("f16c", has!("f16c")),
                ("avxvnni", has!("avxvnni")),
                ("avx512f", has!("avx512f")),
                ("avx512bw", has!("avx512bw")),
                ("avx512vl", has!("avx512vl")),
                ("avx512vnni", has!("avx512vnni")),
                ("avx512bf16", has!("avx512bf16")),
            ]
        }
        #[cfg(not(target_arch = "x86_64"))]
        Vec::new()
    }

    /// The instructions with which it multiplies weights: stored as f32 or f16, as bf16, in blocks.
    pub fn instructions(self) -> [&'static str; 3] {
        match self {
            Self::Portable => [
                "f32 multiply and add",
                "f32 multiply and add of widened bf16",
                "int8 multiply and add",
            ],
            Self::Avx2 => [
                "f32 fused multiply-add",
                "f32 fused multiply-add of widened bf16",
                "int8 pairs (maddubs, madd)",
            ],
            Self::AvxVnni => [
                "f32 fused multiply-add",
                "f32 fused multiply-add of widened bf16",
                "int8 dot product (vpdpbusd)",
            ],
            Self::Avx512 => [
                "f32 fused multiply-add",
                "bf16 dot product (vdpbf16ps)",
                "int8 dot product (vpdpbusd)",
            ],
        }
    }

    /// The path with this name (`portable`, `avx2`, `avxvnni`, `avx512`).
    ///
    /// # Errors
    /// [`Error::Isa`] if there is no such path or this processor lacks it.
    pub fn named(name: &str) -> Result<Self, Error> {
        let found = Self::here().find(|isa| isa.name() == name);
        found.ok_or_else(|| Error::Isa(name.to_owned()))
    }

    /// Its name, as [`Isa::named`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
        }
    }
}

/// Memory that operations reuse from call to call; it grows to what the largest call needs.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Activations as the kernel of a product reads them.
    pub(crate) acts: Vec<u32>,
    /// Activations in the order of a weight's columns.
    pub(crate) gathered: Vec<f32>,
    /// Products that need a second pass.
    pub(crate) product: Vec<f32>,
    /// The products that share a region.
    pub(crate) groups: Vec<Group>,
    /// States of attention's splits, then each thread's work.
    pub(crate) attention: Vec<f32>,
    /// How attention is cut into tasks, per request.
    pub(crate) shares: Vec<Share>,
}

/// The first `len` values, of which nothing is known.
pub(crate) fn reserve<T: Copy + Default>(memory: &mut Vec<T>, len: usize) -> &mut [T] {
    if memory.len() < len {
        memory.resize(len, T::default());
    }
    &mut memory[..len]
}

/// What [`Cx::each_row`] calls: number of the row, its values, the thread's state, the row's outputs.
pub type EachRow<'a, S, O> = dyn Fn(usize, &mut [f32], &mut S, &mut [O]) + Sync + 'a;

/// What [`Cx::apart`] calls: number of the part, its context, the thread's state, the part's output.
pub type EachPart<'a, S, O> = dyn Fn(usize, &Cx, &mut S, &mut O) + Sync + 'a;

/// The context of one engine thread's operations. Cheap to make; one per engine thread.
#[derive(Debug)]
pub struct Cx {
    team: Arc<Team>,
    class: Class,
    isa: Isa,
    /// Operations stay on the thread that asks for them.
    alone: bool,
    /// For each thread of the team a context of its own, see [`Cx::apart`].
    apart: OnceLock<Box<[Cx]>>,
    scratch: Mutex<Scratch>,
    /// Operations are written here instead of done.
    pub(crate) trace: Option<Trace>,
    /// Where operations are done, if not on the team.
    #[cfg(feature = "cuda")]
    stream: Option<Arc<Stream>>,
}

impl Cx {
    /// Simple operations on values that make one chunk, about 20 us.
    const CHUNK: usize = 1 << 15;

    /// A context on `team` in `class`, on the CPU path `isa` or, if the processor lacks it, the best that it has.
    pub fn new(team: Arc<Team>, class: Class, isa: Isa) -> Self {
        Self {
            team,
            class,
            isa: isa.or_less(),
            alone: false,
            apart: OnceLock::new(),
            scratch: Mutex::default(),
            trace: None,
            #[cfg(feature = "cuda")]
            stream: None,
        }
    }

    /// The same, with a stream of its own on a device: operations that have kernels run there.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has no more.
    #[cfg(feature = "cuda")]
    pub fn on(self, gpu: &Arc<Gpu>) -> Result<Self, Error> {
        Ok(Self {
            stream: Some(Stream::new(Arc::clone(gpu))?),
            ..self
        })
    }

    /// The stream of its device, if it has one.
    #[cfg(feature = "cuda")]
    pub(crate) fn stream(&self) -> Option<&Arc<Stream>> {
        self.stream.as_ref()
    }

    /// A new step begins. Without a call of this, steps on a device are never replayed as graphs.
    pub fn begin(&self) {
        #[cfg(feature = "cuda")]
        if let Some(stream) = &self.stream {
            stream.begin();
        }
    }

    /// The same, with graphs of steps on its device or without them.
    #[must_use]
    #[cfg(feature = "cuda")]
    pub fn with_graphs(self, graphs: bool) -> Self {
        if let Some(stream) = self.stream.as_ref().filter(|_| !graphs) {
            stream.turn_graphs_off();
        }
        self
    }

    /// How work was given to its device so far.
    #[cfg(feature = "cuda")]
    pub fn submitted(&self) -> crate::cuda::Submitted {
        let stream = self.stream.as_ref();
        stream.map_or_else(Default::default, |stream| stream.submitted())
    }

    /// Whether operations are done on a device.
    pub fn is_on_device(&self) -> bool {
        #[cfg(feature = "cuda")]
        let there = self.stream.is_some();
        #[cfg(not(feature = "cuda"))]
        let there = false;
        there
    }

    /// Waits until the device has done all that it was asked for; then [`Cx::check`]. For who measures.
    ///
    /// # Errors
    /// As [`Cx::check`].
    pub fn wait(&self) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let Some(stream) = &self.stream {
            stream.attempt(|| stream.wait());
        }
        self.check()
    }

    /// Brings the values of a step home and says whether they can be trusted: everything that they depend on has been done.
    ///
    /// # Errors
    /// As [`Cx::check`].
    pub fn settle(&self, rows: &mut Rows) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if self.stream.is_some() {
            rows.as_mut_slice();
        }
        let _ = rows;
        self.check()
    }

    /// Whether the device has refused or failed anything, as far as it has told: what it still computes is known once values
    /// that depend on it were read. Without a device all is well.
    ///
    /// # Errors
    /// [`Error::Device`]: the first failure since this was last asked. The values of that step are lost.
    pub fn check(&self) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let Some(stream) = &self.stream {
            return stream.check();
        }
        Ok(())
    }

    pub(crate) fn with_trace(self, trace: Trace) -> Self {
        Self {
            trace: Some(trace),
            ..self
        }
    }

    /// The CPU path.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The team.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Threads that an operation has.
    pub fn threads(&self) -> usize {
        if self.alone { 1 } else { self.team.threads() }
    }

    /// Runs `body(chunk)` for each chunk of `0..chunks` on the team: one parallel region. Which thread runs a chunk is
    /// not defined, so a chunk's result must not depend on it. Not reentrant.
    pub fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        self.run_indexed(chunks, &|_, chunk| body(chunk));
    }

    /// As [`Cx::run`], with the number of the thread: `body(thread, chunk)`.
    pub(crate) fn run_indexed(&self, chunks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        if self.alone {
            (0..chunks).for_each(|chunk| body(0, chunk));
        } else {
            self.team.run_indexed(self.class, chunks, body);
        }
    }

    /// Runs `body(part, cx, state, output)` for each of `outputs` on the team, in one parallel region: for parts that are large and
    /// do not wait for each other. The operations that it does with its context stay on the thread that it runs on; `state` belongs
    /// to that thread while it runs.
    ///
    /// # Panics
    /// If there are fewer states than threads, or operations are done on a device, which has one order of work.
    pub fn apart<S: Send, O: Send>(
        &self,
        states: &mut [S],
        outputs: &mut [O],
        body: &EachPart<'_, S, O>,
    ) {
        assert!(!self.is_on_device(), "apart: on a device");
        let each = || Self {
            alone: true,
            ..Self::new(Arc::clone(&self.team), self.class, self.isa)
        };
        let contexts = self
            .apart
            .get_or_init(|| (0..self.threads()).map(|_| each()).collect());
        assert!(states.len() >= self.threads(), "apart: states");
        let parts = outputs.len();
        let (states, outputs) = (Shared::new(states), Shared::new(outputs));
        self.run_indexed(parts, &|thread, part| {
            // SAFETY: a part is one chunk, and a thread runs one chunk at a time.
            let (state, output) = unsafe {
                (
                    &mut states.part(thread..thread + 1)[0],
                    &mut outputs.part(part..part + 1)[0],
                )
            };
            body(part, &contexts[thread], state, output);
        });
    }

    /// Runs `body` on ranges that make up `0..rows`, `cost` simple operations a row; too few for the team run here. All threads
    /// get about as many.
    pub(crate) fn run_rows(&self, rows: usize, cost: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        let most = (Self::CHUNK / cost.max(1)).max(1);
        if rows <= most {
            body(0..rows);
        } else {
            let chunks = rows.div_ceil(most).next_multiple_of(self.threads());
            let step = rows.div_ceil(chunks);
            self.run(rows.div_ceil(step), &|chunk| {
                body(chunk * step..rows.min((chunk + 1) * step));
            });
        }
    }

    /// Runs `body(row, values, state, outputs)` for each row of `rows`, on the team: `outputs` are `starts[row]..starts[row + 1]`
    /// of `all`, and `state` belongs to the thread alone while it runs.
    ///
    /// # Panics
    /// If there are fewer states than threads, or `starts` (`[rows + 1]`) does not ascend within `all`.
    pub fn each_row<S: Send, O: Send>(
        &self,
        rows: &mut Rows,
        states: &mut [S],
        (starts, all): (&[usize], &mut [O]),
        body: &EachRow<'_, S, O>,
    ) {
        let (count, width) = (rows.rows(), rows.width());
        assert!(states.len() >= self.threads(), "each_row: states");
        assert_eq!(starts.len(), count + 1, "each_row: starts");
        assert!(starts.is_sorted(), "each_row: starts");
        let (rows, states) = (Shared::new(rows.as_mut_slice()), Shared::new(states));
        let all = Shared::new(all);
        self.run_indexed(count, &|thread, row| {
            // SAFETY: a row is one chunk, and so are its outputs, as `starts` ascends; a thread runs one chunk at a time.
            let (values, state, outputs) = unsafe {
                (
                    rows.part(row * width..(row + 1) * width),
                    states.part(thread..thread + 1),
                    all.part(starts[row]..starts[row + 1]),
                )
            };
            body(row, values, &mut state[0], outputs);
        });
    }

    /// Bytes of scratch memory that operations have needed so far.
    pub fn scratch_bytes(&self) -> usize {
        let scratch = self.scratch();
        let lens = [&scratch.product, &scratch.attention, &scratch.gathered].map(Vec::len);
        let apart = self.apart.get().into_iter().flatten();
        4 * (scratch.acts.len() + lens.iter().sum::<usize>())
            + apart.map(Self::scratch_bytes).sum::<usize>()
    }

    /// Scratch memory for one operation.
    pub(crate) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
