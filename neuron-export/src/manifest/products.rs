//! What an artifact holds: a module for each shape, what was compiled of it, and the same model for other runtimes.

use super::Parity;
use crate::files::FileRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What wrote the HLO modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exporter {
    /// Version of this crate.
    pub version: String,
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
    /// Made by a compiler whose product nobody has checked (the legacy one of inf1): it never counts for [`super::Status::NeffCompiled`].
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
    /// The file with its weights, which must lie beside it, where they are not in it: its own, or [`super::Numerics::weights_file`].
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
