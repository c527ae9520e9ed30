//! [`Device`]: what computes a model, and what it has counted. Plain numbers for whoever shows them.
//!
//! Must not know: how a device is driven. Invariant: counters only grow, and reading them waits for no computation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What computes a model.
#[derive(Debug, Clone, Default)]
pub enum Device {
    /// The processors of this machine.
    #[default]
    Cpu,
    /// AWS Neuron cores.
    Neuron(Arc<NeuronCounters>),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<koma_kernels::cuda::Gpu>),
}

impl Device {
    /// Its name in messages and labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Neuron(_) => "neuron",
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => "cuda",
        }
    }
}

impl Device {
    /// The number of the GPU that it is, if it is one.
    pub fn number(&self) -> Option<usize> {
        #[cfg(feature = "cuda")]
        if let Self::Cuda(gpu) = self {
            return Some(gpu.info().number);
        }
        None
    }
}

/// A shape that a Neuron device executes a model in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeuronBucket {
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
}

/// What the Neuron cores of one model have done since its start.
#[derive(Debug)]
pub struct NeuronCounters {
    buckets: Vec<NeuronBucket>,
    cores: usize,
    /// `[buckets, cores]`
    executions: Vec<AtomicU64>,
    tokens: AtomicU64,
    padding: AtomicU64,
    reruns: AtomicU64,
    errors: Mutex<BTreeMap<i32, u64>>,
}

/// [`NeuronCounters`] at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeuronCounts {
    /// Executions that were started, by bucket and core.
    pub executions: Vec<(NeuronBucket, usize, u64)>,
    /// Tokens of requests in them.
    pub tokens: u64,
    /// Places in them that no token filled.
    pub padding: u64,
    /// Executions that gave no numbers and were done again on the CPU.
    pub reruns: u64,
    /// Executions that failed, by `NRT_STATUS` (1003 is a rerun).
    pub errors: BTreeMap<i32, u64>,
}

impl NeuronCounters {
    /// Zeros, for these buckets on `cores` cores.
    pub fn new(buckets: Vec<NeuronBucket>, cores: usize) -> Self {
        let executions = (0..buckets.len() * cores).map(|_| AtomicU64::new(0));
        Self {
            executions: executions.collect(),
            buckets,
            cores,
            tokens: AtomicU64::new(0),
            padding: AtomicU64::new(0),
            reruns: AtomicU64::new(0),
            errors: Mutex::default(),
        }
    }

    /// Cores that compute.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// The shapes.
    pub fn buckets(&self) -> &[NeuronBucket] {
        &self.buckets
    }

    /// An execution of bucket `bucket` begins on `core`, with `tokens` tokens in it.
    ///
    /// # Panics
    /// If there is no such bucket or core.
    pub fn execution(&self, bucket: usize, core: usize, tokens: usize) {
        let NeuronBucket { batch, seq } = self.buckets[bucket];
        let places = (batch * seq) as u64;
        let tokens = tokens as u64;
        self.executions[bucket * self.cores + core].fetch_add(1, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        let padding = places.saturating_sub(tokens);
        self.padding.fetch_add(padding, Ordering::Relaxed);
    }

    /// An execution is done again on the CPU.
    pub fn rerun(&self) {
        self.reruns.fetch_add(1, Ordering::Relaxed);
    }

    /// An execution ended with this `NRT_STATUS`.
    pub fn error(&self, status: i32) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(status).or_default() += 1;
    }

    /// All of them, now.
    pub fn counts(&self) -> NeuronCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let executions = self.executions.iter().enumerate();
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        NeuronCounts {
            executions: executions
                .map(|(i, count)| (self.buckets[i / self.cores], i % self.cores, of(count)))
                .collect(),
            tokens: of(&self.tokens),
            padding: of(&self.padding),
            reruns: of(&self.reruns),
            errors: errors.clone(),
        }
    }
}
