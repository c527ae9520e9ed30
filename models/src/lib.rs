//! Architectures, checkpoints and tokenizer files: from a [`Source`] to a [`Loaded`] model.
//!
//! Owns: what a checkpoint means (configuration, tensor names, tokenizer, pooling, labels, templates) and the forward
//! pass of each architecture over `koma-kernels` operations. Must not know: requests, scheduling, HTTP.
//!
//! Invariant: a model either loads exactly (every tensor used or on its architecture's list of ignorable ones, every
//! configured behaviour reproduced) or loading ends in a [`LoadError`] that names the file, field or tensor.

mod arch;
mod batch;
mod config;
mod device;
mod error;
pub mod gguf;
mod head;
mod layers;
mod load;
mod loaded;
mod registry;
mod source;
pub mod tokenizer;
mod weights;

pub use batch::{Batch, GroupSlots, StateSlots, Workspace};
pub use device::{Device, NeuronBucket, NeuronCounters, NeuronCounts};
pub use error::LoadError;
pub use head::{Head, HeadKind, Prompts};
pub use koma_kernels as kernels;
pub use load::{blueprint, folder, load, local, outline, rehearsal, tokenizer};
pub use loaded::{
    Blueprint, ChatAssets, Decoder, Dtype, Encoder, Identity, Limits, LoadOptions, LoadProgress,
    Loaded, Model, Outline, Phase, Source,
};
pub use registry::{Supported, architectures};
pub use source::{
    FetchOptions, HubOptions, Kept, KeptFrom, KeptModel, KeptOther, OtherKind, S3Options, Secret,
    kept, models_in,
};
pub use tokenizer::Tokenizer;
pub use weights::{Pieces, Tensors};

/// Layers as data.
pub mod spec {
    pub use crate::layers::encoder::{EncoderSpec, Names, Positions, Sizes};
    pub use crate::layers::pooling::{Pooling, pooling_name};
    pub use crate::layers::top::{Select, StageSpec};
}
