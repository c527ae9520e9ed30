//! What must hold inside of a manifest.

use super::{
    Activation, Bucket, Dtype, FORMAT, FORMAT_VERSION, InputName, MAX_BYTES, Manifest,
    ManifestError, Task, Weights,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// What is wrong with a field.
type Fault = (String, String);

fn fault<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Fault> {
    Err((field.into(), reason.into()))
}

/// Reads the fields of the manifest `path`; its version first, as all else can differ between versions.
pub(super) fn parse(path: &Path) -> Result<Manifest, ManifestError> {
    let io = |error| ManifestError::Io {
        path: path.to_owned(),
        error,
    };
    let damaged = |reason: String| ManifestError::File {
        path: path.to_owned(),
        reason,
    };
    let wrong = |field: &str, reason: String| ManifestError::Field {
        path: path.to_owned(),
        field: field.to_owned(),
        reason,
    };
    if !path.is_file() {
        return Err(damaged(
            "there is no such file: the folder is not an export".to_owned(),
        ));
    }
    if std::fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
        return Err(damaged(format!("is larger than {MAX_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let json: Value = serde_json::from_str(&text).map_err(|e| damaged(format!("not JSON: {e}")))?;
    if json["format"] != FORMAT {
        let reason = format!("expected \"{FORMAT}\", got {}", json["format"]);
        return Err(wrong("format", reason));
    }
    if json["format_version"] != FORMAT_VERSION {
        let reason = format!(
            "is {}; this version of Koma reads {FORMAT_VERSION}",
            json["format_version"]
        );
        return Err(wrong("format_version", reason));
    }
    // From the text, whose errors have line and column.
    serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))
}

impl Manifest {
    /// Fails if fields do not fit each other. `path`: the manifest's, for messages.
    pub(super) fn check(&self, path: &Path) -> Result<(), ManifestError> {
        let checks = [
            Self::check_form,
            Self::check_source_names,
            Self::check_task,
            Self::check_io,
            Self::check_weights_place,
            Self::check_buckets,
            Self::check_names,
        ];
        let first = checks.iter().find_map(|check| check(self).err());
        match first {
            None => Ok(()),
            Some((field, reason)) => Err(ManifestError::Field {
                path: path.to_owned(),
                field,
                reason,
            }),
        }
    }

    /// Fails if a file of the artifact is missing or has other bytes, of those whose field is `chosen`.
    pub(super) fn check_files(
        &self,
        folder: &Path,
        chosen: &dyn Fn(&str) -> bool,
    ) -> Result<(), ManifestError> {
        for (_, file) in self.files().into_iter().filter(|(field, _)| chosen(field)) {
            let path = folder.join(&file.file);
            match file.difference(folder) {
                Ok(None) => {}
                Ok(Some(reason)) => return Err(ManifestError::File { path, reason }),
                Err(error) => return Err(ManifestError::Io { path, error }),
            }
        }
        Ok(())
    }

    fn check_form(&self) -> Result<(), Fault> {
        if self.format != FORMAT {
            return fault("format", format!("expected \"{FORMAT}\""));
        }
        if self.format_version != FORMAT_VERSION {
            return fault("format_version", format!("expected {FORMAT_VERSION}"));
        }
        if self.status > self.earned() {
            let reason = format!(
                "is {:?}, but the evidence is only enough for {:?}",
                self.status,
                self.earned()
            );
            return fault("status", reason);
        }
        Ok(())
    }

    fn check_source_names(&self) -> Result<(), Fault> {
        let source = &self.source;
        let weights = source.weights.iter().map(|file| ("source.weights", file));
        let files = source.files.iter().map(|file| ("source.files", file));
        let mut names = BTreeSet::new();
        for (field, file) in weights.chain(files) {
            if let Some(reason) = file.fault(true) {
                return fault(field, reason);
            }
            if !names.insert(&file.file) {
                return fault(field, format!("`{}` is listed twice", file.file));
            }
        }
        if source.weights.is_empty() {
            return fault("source.weights", "is empty");
        }
        Ok(())
    }

    fn check_task(&self) -> Result<(), Fault> {
        let (labels, tokenizer) = (self.labels.len(), &self.tokenizer);
        let fits = match self.task {
            Task::SequenceClassification => labels > 0,
            Task::TextRanking => labels == 1 && self.activation != Activation::Softmax,
            Task::Embedding => labels == 0 && self.activation == Activation::None,
        };
        if !fits {
            let reason = format!(
                "{:?} cannot have {labels} labels and activation {:?}",
                self.task, self.activation
            );
            return fault("task", reason);
        }
        if self.pooling.is_some() != (self.task == Task::Embedding) {
            return fault(
                "pooling",
                "belongs to sentence-embedding, and to nothing else",
            );
        }
        if tokenizer.file != "tokenizer.json" {
            return fault("tokenizer.file", "expected \"tokenizer.json\"");
        }
        if tokenizer.vocab_size == 0 || tokenizer.max_length == 0 {
            return fault("tokenizer", "vocab_size and max_length must be positive");
        }
        if tokenizer.pad_id as usize >= tokenizer.vocab_size {
            return fault("tokenizer.pad_id", "is not below vocab_size");
        }
        Ok(())
    }

    fn check_io(&self) -> Result<(), Fault> {
        let order = [
            InputName::InputIds,
            InputName::AttentionMask,
            InputName::TokenTypeIds,
        ];
        let names: Vec<_> = self.inputs.iter().map(|input| input.name).collect();
        if names.len() < 2 || !order.starts_with(&names) {
            let reason =
                "expected input_ids, attention_mask and perhaps token_type_ids, in this order";
            return fault("inputs", reason);
        }
        for (i, input) in self.inputs.iter().enumerate() {
            if input.param != i {
                return fault(format!("inputs[{i}].param"), format!("expected {i}"));
            }
            if input.dtype != Dtype::S32 {
                return fault(format!("inputs[{i}].dtype"), "expected \"s32\"");
            }
        }
        let expected = match self.task {
            Task::Embedding => "embedding",
            _ => "logits",
        };
        let [output] = self.outputs.as_slice() else {
            return fault("outputs", "expected one output");
        };
        if output.name != expected || output.index != 0 || output.dtype != Dtype::F32 {
            return fault("outputs[0]", format!("expected `{expected}`, index 0, f32"));
        }
        let wrong_width = match self.task {
            Task::Embedding => output.width == 0,
            _ => output.width != self.labels.len(),
        };
        if wrong_width {
            return fault("outputs[0].width", "does not fit the task and its labels");
        }
        Ok(())
    }

    fn check_weights_place(&self) -> Result<(), Fault> {
        let numerics = &self.numerics;
        let separate = numerics.weights == Weights::Separate;
        if numerics.weights_file.is_some() != separate {
            return fault("numerics.weights_file", "belongs to separate weights");
        }
        if numerics.param_order.is_empty() == separate {
            return fault("numerics.param_order", "belongs to separate weights");
        }
        let mut names = BTreeSet::new();
        match numerics
            .param_order
            .iter()
            .find(|name| !names.insert(*name))
        {
            Some(name) => fault("numerics.param_order", format!("`{name}` is there twice")),
            None => Ok(()),
        }
    }

    fn check_buckets(&self) -> Result<(), Fault> {
        if self.buckets.is_empty() {
            return fault("buckets", "is empty");
        }
        let shape = |b: &Bucket| (b.batch, b.seq);
        for (i, bucket) in self.buckets.iter().enumerate() {
            let field = format!("buckets[{i}]");
            if bucket.batch == 0 || bucket.seq == 0 {
                return fault(field, "batch and seq must be positive");
            }
            if bucket.seq > self.tokenizer.max_length {
                let most = self.tokenizer.max_length;
                let reason = format!("seq {} is above tokenizer.max_length, {most}", bucket.seq);
                return fault(field, reason);
            }
            if i > 0 && shape(&self.buckets[i - 1]) >= shape(bucket) {
                return fault(field, "buckets must ascend by batch, then seq");
            }
        }
        Ok(())
    }

    /// Names of files of the artifact: plain, and each once.
    fn check_names(&self) -> Result<(), Fault> {
        let mut names = BTreeSet::from([super::FILE.to_owned()]);
        for (field, file) in self.files() {
            if let Some(reason) = file.fault(false) {
                return fault(field, reason);
            }
            if !names.insert(file.file.clone()) {
                return fault(field, format!("`{}` is named twice", file.file));
            }
        }
        Ok(())
    }
}
