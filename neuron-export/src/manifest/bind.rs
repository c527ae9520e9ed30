//! What binds an artifact to a checkpoint: who the model is, what its rows mean, and the files that change its answers.

use super::{Activation, FILE, Manifest, ManifestError, Task};
use crate::files::FileRef;
use koma_models::{Head, HeadKind, Identity, Limits};
use std::path::Path;

/// Files of a checkpoint that change what the model answers, beside config.json, tokenizer.json, weights, and config.json in the
/// folders of modules.
pub const BOUND_FILES: [&str; 5] = [
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];

impl Task {
    /// Task and activation of a head; none for heads with one row per token.
    pub(crate) fn of(head: &Head) -> Option<(Self, Activation)> {
        Some(match head.kind {
            HeadKind::SingleLabel => (Self::SequenceClassification, Activation::Softmax),
            HeadKind::MultiLabel => (Self::SequenceClassification, Activation::Sigmoid),
            HeadKind::Regression => (Self::SequenceClassification, Activation::None),
            HeadKind::Score { sigmoid: true } => (Self::TextRanking, Activation::Sigmoid),
            HeadKind::Score { sigmoid: false } => (Self::TextRanking, Activation::None),
            HeadKind::Embed { .. } => (Self::Embedding, Activation::None),
            HeadKind::Tokens => return None,
        })
    }
}

impl Manifest {
    /// Fails if the loaded model with this identity, head and limits is not the one that the artifact was made from. `folder`: the
    /// artifact's, for messages.
    ///
    /// # Errors
    /// [`ManifestError::Field`] with the first difference.
    pub fn check_model(
        &self,
        folder: &Path,
        (identity, head, limits): (&Identity, &Head, &Limits),
    ) -> Result<(), ManifestError> {
        let differs = |field: &str, here: &dyn std::fmt::Debug, there: &dyn std::fmt::Debug| {
            Err(ManifestError::Field {
                path: folder.join(FILE),
                field: field.to_owned(),
                reason: format!(
                    "is {here:?}, but that of the model `{}` is {there:?}: the artifact was made from another checkpoint",
                    identity.name
                ),
            })
        };
        let source = &self.source;
        if source.architecture != identity.architecture {
            return differs(
                "source.architecture",
                &source.architecture,
                &identity.architecture,
            );
        }
        if source.weights_hash != identity.weights_hash {
            return differs(
                "source.weights_hash",
                &source.weights_hash,
                &identity.weights_hash,
            );
        }
        let made_for = Some((self.task, self.activation));
        if made_for != Task::of(head) {
            return differs("task", &made_for, &Task::of(head));
        }
        let normalize = matches!(head.kind, HeadKind::Embed { normalize: true });
        if self.normalizes() != normalize {
            return differs("pooling.normalize", &self.normalizes(), &normalize);
        }
        if self.labels != head.labels {
            return differs("labels", &self.labels, &head.labels);
        }
        let width = self.outputs.first().map(|output| output.width);
        if width != Some(head.width) {
            return differs("outputs[0].width", &width, &head.width);
        }
        if self.tokenizer.vocab_size != limits.vocab {
            return differs(
                "tokenizer.vocab_size",
                &self.tokenizer.vocab_size,
                &limits.vocab,
            );
        }
        Ok(())
    }

    /// Whether vectors are divided by their length before they are served.
    pub(crate) fn normalizes(&self) -> bool {
        self.pooling.as_ref().is_some_and(|p| p.normalize)
    }

    /// Makes of an output row the vector that is served by default; nothing is done to logits.
    pub(crate) fn scale_vector(&self, row: &mut [f32]) {
        if self.normalizes() {
            Head::embedding(true, row.len()).activate(row);
        }
    }

    /// Fails if a file of the checkpoint `source` that changes the answers differs from what it was at the export, or was added
    /// since. Weights are not read: [`Manifest::check_model`] compares their hash, [`Manifest::check_weights`] their bytes.
    ///
    /// # Errors
    /// [`ManifestError::File`] that names the first.
    pub fn check_source(&self, source: &Path) -> Result<(), ManifestError> {
        let mut expected = self.source.files.clone();
        for (name, sha256) in [
            ("config.json", &self.source.config_sha256),
            (self.tokenizer.file.as_str(), &self.tokenizer.sha256),
        ] {
            let path = source.join(name);
            let bytes = path.metadata().map_or(0, |m| m.len());
            expected.push(FileRef {
                file: name.to_owned(),
                sha256: sha256.clone(),
                bytes,
            });
        }
        same(source, &expected)?;
        for name in BOUND_FILES {
            let known = expected.iter().any(|file| file.file == name);
            if !known && source.join(name).is_file() {
                return Err(ManifestError::File {
                    path: source.join(name),
                    reason: "was not there when the artifact was made".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Fails if a file of weights of the checkpoint `source` differs from what it was at the export. All bytes are read.
    ///
    /// # Errors
    /// [`ManifestError::File`] that names the first.
    pub fn check_weights(&self, source: &Path) -> Result<(), ManifestError> {
        same(source, &self.source.weights)
    }
}

fn same(folder: &Path, files: &[FileRef]) -> Result<(), ManifestError> {
    for file in files {
        let path = folder.join(&file.file);
        match file.difference(folder) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                let reason = format!("{difference}: the artifact was made from another checkpoint");
                return Err(ManifestError::File { path, reason });
            }
            Err(error) => return Err(ManifestError::Io { path, error }),
        }
    }
    Ok(())
}
