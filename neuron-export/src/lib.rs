//! From a checkpoint to what a Neuron device is given: one HLO module per bucket of batch and sequence, weights, ONNX, and a
//! manifest that binds them to the model.
//!
//! Owns: the folder of an export (an artifact) and its manifest, the graph, the files written from it. Must not know: requests,
//! HTTP, flags. Reading checkpoints and configurations is `koma-models`'.
//!
//! Invariant: an artifact is complete, checked and bound to one model, or it is not there. The same model and options give the
//! same bytes.

#![forbid(unsafe_code)]

pub mod arch;
pub mod compile;
pub mod export;
mod files;
pub mod graph;
pub mod hlo;
pub mod manifest;
pub mod neff;
pub mod onnx;
mod process;
pub mod proto;
pub mod reference;
#[cfg(feature = "neuron")]
pub mod serving;
#[cfg(test)]
mod testing;
pub mod verify;

pub use files::{FileRef, file_ref};
pub use koma_models as models;
pub use process::Stop;
