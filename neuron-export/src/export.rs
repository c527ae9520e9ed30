//! [`export`]: from a model as data to an artifact on disk.
//!
//! Owns: buckets, the files of an artifact, their order. Must not know: how a graph is made or written.
//!
//! Invariants: the artifact appears under its name as a whole: everything is written beside it, checked, and then renamed. Weights
//! go from the checkpoint to the files in pieces. The same model and options give the same bytes.

mod folder;
#[cfg(test)]
mod tests;
mod weights;
mod writer;

use crate::Stop;
use crate::arch::{self, ArchError};
use crate::hlo::lint::LintError;
use crate::manifest::{Manifest, ManifestError, Precision, Weights};
use crate::proto::{MAX_BYTES, Values};
pub use folder::{Folder, Open};
use koma_models::{Blueprint, LoadError};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use writer::{Writer, weight_values};

/// Rows of the buckets, unless said otherwise.
pub const BATCHES: [usize; 3] = [1, 4, 16];
/// Tokens of the buckets' rows, unless said otherwise.
pub const SEQS: [usize; 3] = [32, 64, 128];
/// Weights are separate by default where the buckets' copies of them would take more than this.
const INLINE_BYTES: u64 = 1 << 30;
/// Most rows or tokens of a bucket: far above any device, low enough that no product of sizes overflows.
const MAX_SIZE: usize = 1 << 20;

/// Why there is no artifact. Nothing is left of it then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The model cannot be exported.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// The model cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// [`Stop::stop`].
    #[error("{}: it was interrupted, and nothing was written", .0.display())]
    Stopped(PathBuf),
    /// A bucket is not possible.
    #[error("bucket of batch {batch} and seq {seq}: {reason}")]
    Bucket {
        /// Its rows.
        batch: usize,
        /// Tokens of its rows.
        seq: usize,
        /// Why.
        reason: String,
    },
    /// No bucket is asked for, or one twice.
    #[error("{0}")]
    Buckets(String),
    /// The folder cannot be made or replaced.
    #[error("{}: {reason}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A module that was written is not as it should be; an error in this crate.
    #[error("{file}: {error}")]
    Lint {
        /// The module.
        file: String,
        /// What is wrong.
        error: LintError,
    },
    /// The manifest does not hold together.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What to export, and where to.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The artifact's folder.
    pub out: PathBuf,
    /// Rows of the buckets.
    pub batches: Vec<usize>,
    /// Tokens of the buckets' rows; none: those of [`SEQS`] that the model takes, or its longest text.
    pub seqs: Option<Vec<usize>>,
    /// Where weights go; none: separate where the buckets' copies would take more than 1 GiB.
    pub weights: Option<Weights>,
    /// Precision of the operands of matrix products.
    pub precision: Precision,
    /// Whether an artifact that is there is replaced.
    pub force: bool,
}

/// Called with the bytes written so far, and those to be written in all.
pub type Progress<'a> = dyn Fn(u64, u64) + 'a;

/// Writes the artifact of `model`; its manifest. `stop` ends it between two writes.
///
/// # Errors
/// [`ExportError`]. What was there before is then still there, and nothing else.
pub fn export(
    model: &Blueprint,
    options: &ExportOptions,
    stop: &Stop,
    progress: &Progress<'_>,
) -> Result<Manifest, ExportError> {
    let files = (&folder::create as &Open<'_>, MAX_BYTES);
    export_with(model, options, stop, files, progress)
}

/// As [`export`], with files opened by `open` and messages of at most `longest` bytes.
fn export_with(
    model: &Blueprint,
    options: &ExportOptions,
    stop: &Stop,
    (open, longest): (&Open<'_>, u64),
    progress: &Progress<'_>,
) -> Result<Manifest, ExportError> {
    let spec = arch::supported(model)?;
    let buckets = buckets(options, model.limits.max_len)?;
    let graph = arch::graph(model, options.precision)?;
    let bytes: u64 = weight_values(&graph).iter().map(Values::bytes).sum();
    let copies = bytes.saturating_mul(buckets.len() as u64);
    let weights = options.weights.unwrap_or(if copies > INLINE_BYTES {
        Weights::Separate
    } else {
        Weights::Inline
    });
    let modules = if weights == Weights::Inline {
        copies
    } else {
        bytes
    };
    // ONNX is in f32 whatever the modules are: few runtimes compute in bf16.
    let exact = match options.precision {
        Precision::F32 => graph.clone(),
        Precision::Bf16 => arch::graph(model, Precision::F32)?,
    };
    let portable: u64 = weight_values(&exact).iter().map(Values::bytes).sum();
    // ONNX reads the modules' separate weights, if it can.
    let shared = weights == Weights::Separate && options.precision == Precision::F32;
    let total = modules.saturating_add(if shared { 0 } else { portable });
    let folder = Folder::new(&options.out, options.force, (open, stop))?;
    let writer = Writer {
        model,
        spec,
        graph: &graph,
        exact: &exact,
        weights,
        folder: &folder,
        progress: &|done| progress(done, total),
        longest,
    };
    let mut manifest = writer.manifest(&buckets, options.precision)?;
    manifest
        .write(folder.path())
        .map_err(|error| folder.shown(error))?;
    folder.finish()?;
    Ok(manifest)
}

/// The buckets, in the order of the manifest.
fn buckets(options: &ExportOptions, max_len: usize) -> Result<Vec<(usize, usize)>, ExportError> {
    let seqs = options.seqs.clone().unwrap_or_else(|| {
        let fitting = SEQS.into_iter().filter(|seq| *seq <= max_len);
        let fitting: Vec<usize> = fitting.collect();
        if fitting.is_empty() {
            vec![max_len]
        } else {
            fitting
        }
    });
    let mut buckets = BTreeSet::new();
    for (name, sizes) in [("batch", &options.batches), ("seq", &seqs)] {
        let mut known = BTreeSet::new();
        for size in sizes {
            if *size == 0 || *size > MAX_SIZE {
                let reason = format!("{name} {size} is not from 1 to {MAX_SIZE}");
                return Err(ExportError::Buckets(reason));
            }
            if !known.insert(size) {
                return Err(ExportError::Buckets(format!(
                    "{name} {size} is there twice"
                )));
            }
        }
        if sizes.is_empty() {
            return Err(ExportError::Buckets(format!("there is no {name}")));
        }
    }
    for (batch, seq) in options
        .batches
        .iter()
        .flat_map(|b| seqs.iter().map(|s| (*b, *s)))
    {
        if seq > max_len {
            let reason = format!("the model takes texts of at most {max_len} tokens");
            return Err(ExportError::Bucket { batch, seq, reason });
        }
        buckets.insert((batch, seq));
    }
    Ok(buckets.into_iter().collect())
}

/// Why a file could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// The file cannot be written.
    Io(io::Error),
    /// The checkpoint cannot be read.
    Load(LoadError),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<LoadError> for WriteError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}
