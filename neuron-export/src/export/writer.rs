//! [`Writer`]: the files of one artifact, and the manifest that tells them.
//!
//! Must not know: where the artifact will be, what was asked for. Invariant: files are written in a fixed order; weights go from the
//! checkpoint to a file in pieces.

use super::folder::Folder;
use super::{ExportError, WriteError, weights};
use crate::arch;
use crate::files::FileRef;
use crate::graph::Graph;
use crate::hlo;
use crate::manifest::{
    BOUND_FILES, Bucket, Checkpoint, Dtype, Exporter, FORMAT, FORMAT_VERSION, Gelu, Hlo, Input,
    Manifest, Numerics, Output, Pooling, Portable, PortableKind, Precision, Status, Task,
    TokenizerInfo, Weights,
};
use crate::onnx;
use crate::proto::{Message, Values};
use koma_models::kernels::Then;
use koma_models::spec::{EncoderSpec, Positions, Select, pooling_name};
use koma_models::{Blueprint, Head, HeadKind};
use std::io;
use std::path::Path;

/// Name of the ONNX file.
const ONNX_FILE: &str = "model.onnx";
/// Name of the file of separate weights.
pub(super) const WEIGHTS_FILE: &str = "weights.safetensors";
/// Name of the file of the ONNX file's weights, where they are not in it and the modules have none like them.
const ONNX_WEIGHTS_FILE: &str = "model.onnx.safetensors";

/// The weights of a graph, in the order of their parameters.
pub(super) fn weight_values(graph: &Graph) -> Vec<Values> {
    let weights = graph.weights().map(|(name, ty)| Values {
        name: name.to_owned(),
        ty: ty.clone(),
    });
    weights.collect()
}

/// What the files of one artifact are made of.
pub(super) struct Writer<'a> {
    pub(super) model: &'a Blueprint,
    pub(super) spec: &'a EncoderSpec,
    pub(super) graph: &'a Graph,
    /// The same in f32.
    pub(super) exact: &'a Graph,
    pub(super) weights: Weights,
    pub(super) folder: &'a Folder<'a>,
    pub(super) progress: &'a dyn Fn(u64),
    /// Longest message.
    pub(super) longest: u64,
}

impl Writer<'_> {
    /// Writes all files but the manifest, which is given back.
    pub(super) fn manifest(
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
        let weights_file = separate.then(|| self.weights_file(WEIGHTS_FILE, &weights));
        let weights_file = weights_file.transpose()?;
        let buckets = buckets.iter().map(|bucket| self.bucket(*bucket));
        let buckets = buckets.collect::<Result<_, _>>()?;
        let portable = self.onnx(output_name(task), weights_file.as_ref(), precision)?;
        let inputs = self.graph.inputs().enumerate();
        Ok(Manifest {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            status: Status::Exported,
            exporter: Exporter {
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            buckets,
            spread: None,
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
            numerics: self.numerics(precision, weights_file),
            portable: vec![portable],
        })
    }

    fn numerics(&self, compute: Precision, weights_file: Option<FileRef>) -> Numerics {
        let weights = weight_values(self.graph).into_iter();
        let separate = weights.filter(|_| weights_file.is_some());
        Numerics {
            compute,
            gelu: match self.spec.sizes.activation {
                Then::GeluTanh => Gelu::Tanh,
                Then::Relu => Gelu::Relu,
                _ => Gelu::Erf,
            },
            mask_value: arch::MASK_VALUE.into(),
            weights: self.weights,
            param_order: separate.map(|weight| weight.name).collect(),
            weights_file,
        }
    }

    /// Writes and checks the module of a bucket.
    fn bucket(&self, (batch, seq): (usize, usize)) -> Result<Bucket, ExportError> {
        let message = hlo::module("koma", self.graph, (batch, seq), self.weights);
        if message.len() > self.longest {
            let reason = format!(
                "its module would have {} bytes, and none can have more than {}: write weights separately",
                message.len(),
                self.longest
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

    /// Writes the model as ONNX. Its weights lie outside of it where the modules' do, in the same file if that has them in f32, and where
    /// no message could hold them.
    fn onnx(
        &self,
        output: &str,
        weights_file: Option<&FileRef>,
        precision: Precision,
    ) -> Result<Portable, ExportError> {
        let mut message = onnx::model(self.exact, output, None);
        let mut data = None;
        if self.weights == Weights::Separate || message.len() > self.longest {
            let weights = weight_values(self.exact);
            let same = weights_file.filter(|_| precision == Precision::F32);
            let file = same.map_or_else(
                || self.weights_file(ONNX_WEIGHTS_FILE, &weights),
                |f| Ok(f.clone()),
            )?;
            let outside = onnx::Outside {
                file: &file.file,
                start: weights::head(&weights).len() as u64,
            };
            message = onnx::model(self.exact, output, Some(&outside));
            data = Some(file);
        }
        let file = self.message(ONNX_FILE, &message)?;
        Ok(Portable {
            kind: PortableKind::Onnx,
            opset: Some(onnx::OPSET),
            file: file.file,
            sha256: file.sha256,
            bytes: file.bytes,
            data,
            optional: false,
            parity: None,
        })
    }

    /// Writes a message, its weights' values from the checkpoint.
    fn message(&self, name: &str, message: &Message) -> Result<FileRef, ExportError> {
        self.folder.file(name, &mut |out| {
            message.write(out, &mut |values, out| self.values(values, out))
        })
    }

    /// Writes a safetensors file of these weights.
    fn weights_file(&self, name: &str, weights: &[Values]) -> Result<FileRef, ExportError> {
        self.folder.file(name, &mut |out| {
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
                modes: modes
                    .iter()
                    .map(|mode| pooling_name(*mode).to_owned())
                    .collect(),
                normalize: *normalize,
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
