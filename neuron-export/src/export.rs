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

use crate::arch::{self, ArchError};
use crate::files::FileRef;
use crate::graph::Graph;
use crate::hlo::{self, lint::LintError};
use crate::manifest::{
    BOUND_FILES, Bucket, Checkpoint, Dtype, Exporter, FORMAT, FORMAT_VERSION, Gelu, Hlo, Input,
    Manifest, ManifestError, Numerics, Output, Pooling, Portable, PortableKind, Precision, Status,
    Task, TokenizerInfo, Weights,
};
use crate::onnx;
use crate::proto::{MAX_BYTES, Message, Values};
pub use folder::{Folder, Open};
use koma_models::kernels::Then;
use koma_models::spec::{EncoderSpec, Positions, Select};
use koma_models::{Blueprint, Head, HeadKind, LoadError};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Rows of the buckets, unless said otherwise.
pub const BATCHES: [usize; 3] = [1, 4, 16];
/// Tokens of the buckets' rows, unless said otherwise.
pub const SEQS: [usize; 3] = [32, 64, 128];
/// Weights are separate by default where the buckets' copies of them would take more than this.
const INLINE_BYTES: u64 = 1 << 30;
/// Most rows or tokens of a bucket: far above any device, low enough that no product of sizes overflows.
const MAX_SIZE: usize = 1 << 20;
/// Name of the ONNX file.
const ONNX_FILE: &str = "model.onnx";
/// Name of the file of separate weights.
const WEIGHTS_FILE: &str = "weights.safetensors";

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

/// Writes the artifact of `model`; its manifest.
///
/// # Errors
/// [`ExportError`]. What was there before is then still there.
pub fn export(
    model: &Blueprint,
    options: &ExportOptions,
    progress: &Progress<'_>,
) -> Result<Manifest, ExportError> {
    export_with(model, options, (&folder::create, progress))
}

/// As [`export`], with files opened by `open`.
fn export_with(
    model: &Blueprint,
    options: &ExportOptions,
    (open, progress): (&Open<'_>, &Progress<'_>),
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
    let total = modules.saturating_add(portable);
    let folder = Folder::new(&options.out, options.force, open)?;
    let writer = Writer {
        model,
        spec,
        graph: &graph,
        exact: &exact,
        weights,
        folder: &folder,
        progress: &|done| progress(done, total),
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

/// The weights of a graph, in the order of their parameters.
fn weight_values(graph: &Graph) -> Vec<Values> {
    let weights = graph.weights().map(|(name, ty)| Values {
        name: name.to_owned(),
        ty: ty.clone(),
    });
    weights.collect()
}

/// What the files of one artifact are made of.
struct Writer<'a> {
    model: &'a Blueprint,
    spec: &'a EncoderSpec,
    graph: &'a Graph,
    /// The same in f32.
    exact: &'a Graph,
    weights: Weights,
    folder: &'a Folder<'a>,
    progress: &'a dyn Fn(u64),
}

impl Writer<'_> {
    /// Writes all files but the manifest, which is given back.
    fn manifest(
        &self,
        buckets: &[(usize, usize)],
        precision: Precision,
    ) -> Result<Manifest, ExportError> {
        let head = self
            .model
            .head
            .as_ref()
            .expect("a model that is supported has one");
        let (task, activation) = Task::of(head).expect("and it gives one row per text");
        let separate = self.weights == Weights::Separate;
        let weights = weight_values(self.graph);
        let weights_file = separate.then(|| self.weights_file(&weights)).transpose()?;
        let written = buckets.iter().map(|bucket| self.bucket(*bucket));
        let inputs = self.graph.inputs().enumerate();
        Ok(Manifest {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            status: Status::Exported,
            exporter: Exporter {
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            buckets: written.collect::<Result<_, _>>()?,
            source: self.source()?,
            task,
            activation,
            labels: head.labels.clone(),
            pooling: self.pooling(head),
            tokenizer: self.tokenizer()?,
            inputs: inputs
                .map(|(param, name)| Input {
                    name,
                    param,
                    dtype: Dtype::S32,
                })
                .collect(),
            outputs: vec![Output {
                name: output_name(task).to_owned(),
                index: 0,
                dtype: Dtype::F32,
                width: head.width,
            }],
            numerics: Numerics {
                compute: precision,
                gelu: match self.spec.sizes.activation {
                    Then::GeluTanh => Gelu::Tanh,
                    Then::Relu => Gelu::Relu,
                    _ => Gelu::Erf,
                },
                mask_value: arch::MASK_VALUE.into(),
                weights: self.weights,
                param_order: if separate {
                    weights.into_iter().map(|weight| weight.name).collect()
                } else {
                    Vec::new()
                },
                weights_file,
            },
            portable: self.onnx(output_name(task))?.into_iter().collect(),
        })
    }

    /// Writes and checks the module of a bucket.
    fn bucket(&self, (batch, seq): (usize, usize)) -> Result<Bucket, ExportError> {
        let message = hlo::module("koma", self.graph, (batch, seq), self.weights);
        if message.len() > MAX_BYTES {
            let reason = format!(
                "its module would have {} bytes, and none can have 2 GiB: write weights separately",
                message.len()
            );
            return Err(ExportError::Bucket { batch, seq, reason });
        }
        let name = format!("b{batch}_s{seq}.hlo.pb");
        let file = self.message(&name, &message)?;
        let facts = self.folder.lint(&name)?;
        Ok(Bucket {
            batch,
            seq,
            hlo: Hlo {
                file: file.file,
                sha256: file.sha256,
                bytes: file.bytes,
                opcodes: facts.opcodes,
            },
            parity: None,
            neff: None,
        })
    }

    /// Writes the model as ONNX; none if it is too large for one file.
    fn onnx(&self, output: &str) -> Result<Option<Portable>, ExportError> {
        let message = onnx::model(self.exact, output);
        if message.len() > MAX_BYTES {
            return Ok(None);
        }
        let file = self.message(ONNX_FILE, &message)?;
        Ok(Some(Portable {
            kind: PortableKind::Onnx,
            opset: Some(onnx::OPSET),
            file: file.file,
            sha256: file.sha256,
            bytes: file.bytes,
            optional: false,
            parity: None,
        }))
    }

    /// Writes a message, its weights' values from the checkpoint.
    fn message(&self, name: &str, message: &Message) -> Result<FileRef, ExportError> {
        self.folder.file(name, &mut |out| {
            message.write(out, &mut |values, out| self.values(values, out))
        })
    }

    fn weights_file(&self, weights: &[Values]) -> Result<FileRef, ExportError> {
        self.folder.file(WEIGHTS_FILE, &mut |out| {
            out.write_all(&weights::head(weights))?;
            weights
                .iter()
                .try_for_each(|values| self.values(values, out))
        })
    }

    fn values(&self, values: &Values, out: &mut dyn io::Write) -> Result<(), WriteError> {
        weights::write(&self.model.tensors, values, out)?;
        (self.progress)(self.folder.written());
        Ok(())
    }

    /// What the artifact is bound to.
    fn source(&self) -> Result<Checkpoint, ExportError> {
        let folder = &self.model.folder;
        let mut weights = Vec::new();
        for path in self.model.tensors.files() {
            let name = path.strip_prefix(folder).unwrap_or(path);
            let parts = name.iter().map(|part| part.to_string_lossy().into_owned());
            weights.push(file_ref(folder, &parts.collect::<Vec<_>>().join("/"))?);
        }
        let mut names: Vec<String> = BOUND_FILES.map(str::to_owned).to_vec();
        if folder.join("modules.json").is_file() {
            names.extend(configurations(folder)?);
        }
        names.retain(|name| folder.join(name).is_file());
        names.sort();
        let identity = &self.model.identity;
        Ok(Checkpoint {
            architecture: identity.architecture.clone(),
            weights_hash: identity.weights_hash.clone(),
            config_sha256: file_ref(folder, "config.json")?.sha256,
            weights,
            files: names
                .iter()
                .map(|name| file_ref(folder, name))
                .collect::<Result<_, _>>()?,
        })
    }

    fn tokenizer(&self) -> Result<TokenizerInfo, ExportError> {
        let file = file_ref(&self.model.folder, "tokenizer.json")?;
        Ok(TokenizerInfo {
            file: file.file,
            sha256: file.sha256,
            max_length: self.model.limits.max_len,
            pad_id: match self.spec.numbering {
                Positions::AfterPadding(padding) => padding,
                Positions::Plain => self.model.padding,
            },
            vocab_size: self.model.limits.vocab,
        })
    }

    fn pooling(&self, head: &Head) -> Option<Pooling> {
        match (&head.kind, &self.spec.select) {
            (HeadKind::Embed { normalize }, Select::Pool(modes)) => Some(Pooling {
                modes: modes.iter().map(|mode| mode.name().to_owned()).collect(),
                normalized: *normalize,
            }),
            _ => None,
        }
    }
}

/// The output's name in manifest and modules.
fn output_name(task: Task) -> &'static str {
    match task {
        Task::Embedding => "embedding",
        _ => "logits",
    }
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

fn file_ref(folder: &Path, name: &str) -> Result<FileRef, ExportError> {
    crate::files::file_ref(folder, name).map_err(|error| ExportError::Io {
        path: folder.join(name),
        error,
    })
}

/// The config.json files in the folders of modules.
fn configurations(folder: &Path) -> Result<Vec<String>, ExportError> {
    let io = |error| ExportError::Io {
        path: folder.to_owned(),
        error,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if let Some(name) = name.to_str() {
            names.push(format!("{name}/config.json"));
        }
    }
    Ok(names)
}
