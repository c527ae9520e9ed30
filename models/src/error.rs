//! Why a model cannot be loaded.

use std::path::PathBuf;

/// Letters of a message at most: lists of what is known fit, a file's own texts may not.
const MAX_LETTERS: usize = 2000;

/// The first letters of a message that may quote a file.
pub(crate) fn shortened(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().nth(MAX_LETTERS) {
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

/// An error of loading. Every message names the file, field or tensor.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The source does not name a model.
    #[error("{source_name}: {reason}")]
    Source {
        /// The source as the user gave it.
        source_name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// A file is damaged or not of the format its name says.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place in it.
        reason: String,
    },
    /// A configuration field is missing, of the wrong type or out of range.
    #[error("{}: field `{field}`: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such architecture here.
    #[error("architecture `{name}` is not supported; supported are {known}")]
    UnknownArchitecture {
        /// As the checkpoint says.
        name: String,
        /// The supported ones, comma-separated.
        known: String,
    },
    /// A tensor the architecture needs is not in the checkpoint.
    #[error("tensor `{name}` is missing in {}", path.display())]
    MissingTensor {
        /// The tensor.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Tensors that the architecture does not know.
    #[error("{} holds tensors that this architecture does not use: {names}", path.display())]
    UnusedTensors {
        /// The tensors, comma-separated (the first few, and how many there are).
        names: String,
        /// The checkpoint.
        path: PathBuf,
    },
    /// A tensor has the wrong shape or type.
    #[error("tensor `{name}` in {}: {reason}", path.display())]
    Tensor {
        /// The tensor.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer cannot be reproduced exactly.
    #[error("tokenizer in {}: {reason}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}
