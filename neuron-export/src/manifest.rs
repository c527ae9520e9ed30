//! [`Manifest`]: what an artifact is, `manifest.json` in its folder.
//!
//! Owns: the fields and their meaning, what must hold between them ([`check`]), and what binds an artifact to a checkpoint
//! ([`bind`]), which status it has earned ([`evidence`]). Must not know: how anything in it was made.
//!
//! Invariants: a manifest that was read is consistent, and every file it names is in its folder with the bytes it says. It claims
//! no [`Status`] that it has no evidence for. It holds no time and no path of the machine it was made on, so that equal exports
//! are equal files.

mod bind;
mod check;
mod evidence;
#[cfg(test)]
pub(crate) mod tests;

use crate::files::{self, FileRef};
pub use bind::BOUND_FILES;
pub use evidence::{
    SMALL, SPREAD_BF16, SPREAD_F32, TOLERANCE_BF16, TOLERANCE_DEVICE, TOLERANCE_F32,
    TOLERANCE_SMALL,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the manifest in an artifact.
pub const FILE: &str = "manifest.json";
/// [`Manifest::format`] of every manifest.
pub const FORMAT: &str = "neuron-export";
/// [`Manifest::format_version`] of the manifests that this version writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// Largest manifest that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Why an artifact is refused. Every message names the file and, where there is one, the field.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file is missing, damaged, or not the one that the manifest names.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A field of the manifest is wrong, or does not fit another field, or the model it shall be used with.
    #[error("{}: field `{field}`: {reason}", path.display())]
    Field {
        /// The manifest.
        path: PathBuf,
        /// The field, such as `buckets[1].hlo.file`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// See the module. Fields are in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// How far the artifact is proven; [`Manifest::earned`] on every writing.
    pub status: Status,
    /// What wrote the HLO modules.
    pub exporter: Exporter,
    /// The checkpoint.
    pub source: Checkpoint,
    /// What the model is for.
    pub task: Task,
    /// What the host makes of an output row ([`Task::Embedding`]: see [`Pooling::normalize`]).
    pub activation: Activation,
    /// Label names by index of the output row; empty for [`Task::Embedding`].
    pub labels: Vec<String>,
    /// How the graph makes one vector of a text's tokens; only for [`Task::Embedding`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// From text to ids.
    pub tokenizer: TokenizerInfo,
    /// The inputs, in the order of their parameter numbers, from 0. Each is `[batch, seq]`.
    pub inputs: Vec<Input>,
    /// The outputs, in the order of their places in the result tuple. Each is `[batch, width]`.
    pub outputs: Vec<Output>,
    /// How the graph computes.
    pub numerics: Numerics,
    /// The shapes, in ascending order of batch, then seq.
    pub buckets: Vec<Bucket>,
    /// The HLO modules' answers against each other's; none if they were not executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// The same model in formats that other runtimes read.
    pub portable: Vec<Portable>,
}

/// How far an artifact is proven. Each stage needs what the one before it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Written and linted.
    Exported,
    /// Every bucket's HLO was executed, and agrees with the reference ([`Bucket::parity`]).
    HloVerified,
    /// Every bucket has a NEFF of a compiler that is supported.
    NeffCompiled,
    /// Every bucket's NEFF was executed on a Neuron device, and agrees with the reference ([`Neff::device_parity`]).
    DeviceVerified,
}

/// What wrote the HLO modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exporter {
    /// Version of this crate.
    pub version: String,
}

/// The checkpoint an artifact was made from. Its place is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// As in config.json's `architectures`.
    pub architecture: String,
    /// [`koma_models::Identity::weights_hash`]: what serving compares, without reading all weights.
    pub weights_hash: String,
    /// sha256 of config.json.
    pub config_sha256: String,
    /// The files of weights. Names are below the checkpoint's folder.
    pub weights: Vec<FileRef>,
    /// The other files ([`BOUND_FILES`]) that change what the model answers, but for config.json and tokenizer.json.
    pub files: Vec<FileRef>,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Labels for a text or a pair; the output row has one raw logit per label.
    SequenceClassification,
    /// One score for a pair of texts (cross-encoder); the output row is the raw score.
    TextRanking,
    /// A vector of a text; the output row is that vector, not yet divided by its length.
    #[serde(rename = "sentence-embedding")]
    Embedding,
}

/// What the host makes of an output row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Nothing.
    None,
    /// Of the row.
    Softmax,
    /// Of each value.
    Sigmoid,
}

/// How the graph makes one vector of a text's tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pooling {
    /// sentence-transformers' names (`mean`, `cls`, `max`, `mean_sqrt_len_tokens`, `weightedmean`, `lasttoken`) of the vectors that
    /// are put side by side.
    pub modes: Vec<String>,
    /// Whether the host divides the vector by its Euclidean length; the graph never does.
    pub normalize: bool,
}

/// From text to ids. The file is the checkpoint's; an artifact holds no copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerInfo {
    /// `tokenizer.json`.
    pub file: String,
    /// Of that file.
    pub sha256: String,
    /// Most tokens of a text or pair that the model takes, special tokens included.
    pub max_length: usize,
    /// The id that fills up rows, on the right, under a mask of 0.
    pub pad_id: u32,
    /// Ids are below this. A device does not check it.
    pub vocab_size: usize,
}

/// What an input means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputName {
    /// Token ids; [`TokenizerInfo::pad_id`] behind a text's end.
    InputIds,
    /// 1 for a token, 0 behind a text's end. A row of zeros gives a finite row that means nothing.
    AttentionMask,
    /// Segment of each token: 1 for the second text of a pair. Only where the architecture reads it.
    TokenTypeIds,
}

impl InputName {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::InputIds => "input_ids",
            Self::AttentionMask => "attention_mask",
            Self::TokenTypeIds => "token_type_ids",
        }
    }
}

/// An input, `[batch, seq]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What it means.
    pub name: InputName,
    /// Number of the HLO parameter.
    pub param: usize,
    /// Always [`Dtype::S32`].
    pub dtype: Dtype,
}

/// An output, `[batch, width]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// `logits`, or `embedding` for [`Task::Embedding`].
    pub name: String,
    /// Place in the result tuple.
    pub index: usize,
    /// Always [`Dtype::F32`].
    pub dtype: Dtype,
    /// Values of a row.
    pub width: usize,
}

/// Type of the values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bit integer.
    S32,
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// How the graph computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numerics {
    /// Precision of the operands of matrix products; all else is f32.
    pub compute: Precision,
    /// Form of GELU, or the activation in its place.
    pub gelu: Gelu,
    /// What stands for the score of a token under a mask of 0.
    pub mask_value: f64,
    /// Where the weights are.
    pub weights: Weights,
    /// With [`Weights::Separate`]: names of the weights, in the order of their parameters, which come behind the inputs'.
    pub param_order: Vec<String>,
    /// With [`Weights::Separate`]: the safetensors file in the artifact that holds exactly these tensors, with the types and shapes
    /// that the parameters have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_file: Option<FileRef>,
}

/// Precision of the operands of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    F32,
    /// bf16.
    Bf16,
}

/// Form of the activation between the two products of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gelu {
    /// The exact form, its erf by formula 7.1.26 of Abramowitz and Stegun (error at most 1.5e-7).
    #[serde(rename = "erf-as-7.1.26")]
    Erf,
    /// The tanh form, where config.json names it.
    Tanh,
    /// No GELU: max(x, 0).
    Relu,
}

/// Where the weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// In each HLO module.
    Inline,
    /// In one file; parameters of the modules, so that a device needs one copy for all buckets.
    Separate,
}

/// One shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// What a compiler reads.
    pub hlo: Hlo,
    /// The HLO's rows against a reference; none if it was not executed.
    pub parity: Option<Parity>,
    /// What a device reads; none if it was not compiled.
    pub neff: Option<Neff>,
}

/// An HLO module, a serialized `HloModuleProto`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hlo {
    /// Its file in the artifact.
    pub file: String,
    /// Of that file.
    pub sha256: String,
    /// Length of that file.
    pub bytes: u64,
    /// Names of the operations in it, in ascending order, each once.
    pub opcodes: Vec<String>,
}

/// How far computed rows are from a reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parity {
    /// What gave the expected rows, with its version and precision.
    pub reference: String,
    /// What executed the artifact, with its version.
    pub runner: String,
    /// Rows compared.
    pub cases: usize,
    /// Largest absolute difference of two values.
    pub max_abs: f64,
    /// Part of the rows with the same largest value, of those where the reference's two largest values are more than
    /// 2 x tolerance apart; none where there are no labels to choose from.
    pub argmax_agreement: Option<f64>,
    /// The largest difference that is accepted.
    pub tolerance: f64,
    /// The largest magnitude that was expected, at least 1: tolerances grow with it.
    pub scale: f64,
}

/// How far apart the buckets' answers to one input lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Largest absolute difference of two values, over all inputs.
    pub max_abs: f64,
    /// The largest that is accepted.
    pub tolerance: f64,
}

/// A compiled module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neff {
    /// Its file in the artifact.
    pub file: String,
    /// Of that file.
    pub sha256: String,
    /// Length of that file.
    pub bytes: u64,
    /// The instances it is for.
    pub target: Target,
    /// The compiler and its version, such as `neuronx-cc 2.28.7631.0`.
    pub compiler: String,
    /// The compiler's flags, without the names of files.
    pub flags: Vec<String>,
    /// Major and minor version of the NEFF format, from its header.
    pub neff_version: [u64; 2],
    /// Number of processing blocks, from its header.
    pub num_tpb: u32,
    /// Names in the NEFF by names in the manifest, of inputs, outputs and (if separate) weights.
    pub io: BTreeMap<String, String>,
    /// Made by a compiler whose product nobody has checked (the legacy one of inf1): it never counts for [`Status::NeffCompiled`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
    /// The NEFF's rows on a device against a reference; none if it was not executed.
    pub device_parity: Option<Parity>,
}

/// Instances with a Neuron device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Inferentia; no longer supported by its maker.
    Inf1,
    /// Inferentia 2.
    Inf2,
    /// Trainium.
    Trn1,
    /// Trainium 2.
    Trn2,
}

impl Target {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inf1 => "inf1",
            Self::Inf2 => "inf2",
            Self::Trn1 => "trn1",
            Self::Trn2 => "trn2",
        }
    }
}

/// The model in a format that other runtimes read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portable {
    /// The format.
    pub kind: PortableKind,
    /// Version of ONNX's operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opset: Option<u32>,
    /// Its file in the artifact. An optional one that was not made is not listed.
    pub file: String,
    /// Of that file.
    pub sha256: String,
    /// Length of that file.
    pub bytes: u64,
    /// The file with its weights, which must lie beside it, where they are not in it: its own, or [`Numerics::weights_file`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<FileRef>,
    /// Whether it was made by something other than this crate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Its rows against a reference; none if it was not executed.
    pub parity: Option<Parity>,
}

/// A format of [`Portable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortableKind {
    /// ONNX, with dynamic batch and seq.
    Onnx,
    /// `TorchScript`.
    Torchscript,
}

/// Gives structs that name a file of the artifact beside other fields that file as a [`FileRef`].
macro_rules! names_a_file {
    ($($name:ident),*) => { $(
        impl $name {
            /// Its file in the artifact.
            pub fn file_ref(&self) -> FileRef {
                FileRef { file: self.file.clone(), sha256: self.sha256.clone(), bytes: self.bytes }
            }
        }
    )* };
}
names_a_file!(Hlo, Neff, Portable);

impl Manifest {
    /// Reads and checks the manifest of the artifact `folder`, and every file that it names there (all bytes are read).
    ///
    /// # Errors
    /// [`ManifestError`]: no manifest, another format version, an unknown field, fields that do not fit, files that are missing or
    /// have other bytes.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let manifest = Self::read_alone(folder)?;
        manifest.check_files(folder, &|_| true)?;
        Ok(manifest)
    }

    /// As [`Manifest::read`], but of the files only those that a device reads are looked at: modules and separate weights.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn read_compiled(folder: &Path) -> Result<Self, ManifestError> {
        let manifest = Self::read_alone(folder)?;
        let read = |field: &str| {
            field.rsplit('.').next() == Some("neff") || field == "numerics.weights_file"
        };
        manifest.check_files(folder, &read)?;
        Ok(manifest)
    }

    /// Reads and checks the manifest, and no other file.
    fn read_alone(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(FILE);
        let manifest = check::parse(&path)?;
        manifest.check(&path)?;
        Ok(manifest)
    }

    /// Reads the manifest of the artifact `folder` again, changes it by `change`, and writes it: what others have found since this
    /// one was read stays. The manifest as it then is.
    ///
    /// # Errors
    /// [`ManifestError::Field`] if its HLO modules are not those of this one any more; as [`Manifest::write`]. It is then as it was.
    pub(crate) fn update(
        &self,
        folder: &Path,
        change: impl FnOnce(&mut Self),
    ) -> Result<Self, ManifestError> {
        let mut now = Self::read_alone(folder)?;
        let modules = |manifest: &Self| -> Vec<(usize, usize, Hlo)> {
            let buckets = manifest.buckets.iter();
            buckets.map(|b| (b.batch, b.seq, b.hlo.clone())).collect()
        };
        if modules(self) != modules(&now) {
            return Err(ManifestError::Field {
                path: folder.join(FILE),
                field: "buckets".to_owned(),
                reason:
                    "the export was made anew meanwhile; what was found of the old one is dropped"
                        .to_owned(),
            });
        }
        change(&mut now);
        now.write(folder)?;
        Ok(now)
    }

    /// Writes the manifest of the artifact `folder`, with the status that it has earned. A manifest that was there is replaced as a
    /// whole or stays.
    ///
    /// # Errors
    /// [`ManifestError::Field`] if it does not hold together, so that what is written can be read; [`ManifestError::Io`].
    pub fn write(&mut self, folder: &Path) -> Result<(), ManifestError> {
        let path = folder.join(FILE);
        self.status = self.earned();
        self.check(&path)?;
        files::replace(folder, FILE, self.to_json().as_bytes())
            .map_err(|error| ManifestError::Io { path, error })
    }

    /// As it is written.
    ///
    /// # Panics
    /// Never: everything in it is JSON.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.expect("structs with named fields, lists and texts are JSON") + "\n"
    }

    /// All files of the artifact beside the manifest, each with the field that names it.
    pub fn files(&self) -> Vec<(String, FileRef)> {
        let mut files = Vec::new();
        if let Some(file) = &self.numerics.weights_file {
            files.push(("numerics.weights_file".to_owned(), file.clone()));
        }
        for (i, bucket) in self.buckets.iter().enumerate() {
            files.push((format!("buckets[{i}].hlo"), bucket.hlo.file_ref()));
            if let Some(neff) = &bucket.neff {
                files.push((format!("buckets[{i}].neff"), neff.file_ref()));
            }
        }
        for (i, portable) in self.portable.iter().enumerate() {
            files.push((format!("portable[{i}]"), portable.file_ref()));
            let own = portable.data.as_ref();
            let own = own.filter(|data| self.numerics.weights_file.as_ref() != Some(*data));
            files.extend(own.map(|data| (format!("portable[{i}].data"), data.clone())));
        }
        files
    }
}
