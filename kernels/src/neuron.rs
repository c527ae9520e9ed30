//! The runtime of AWS Neuron devices (Inferentia, Trainium): a NEFF, that is a compiled model, runs on a core.
//!
//! Owns: the library `libnrt`, which is looked for when it is asked for and never linked, and all `unsafe` around it. Must not
//! know: what a NEFF computes.
//!
//! Invariants: the runtime is started once in a process ([`Runtime::start`]); what is dropped is given back in the order that
//! the library wants: sets of tensors, tensors, models, then the runtime itself. What a thread makes of a [`Runtime`] stays on
//! that thread.
//!
//! Sources: the public pages `neuron-runtime/api/nrt.rst` and `neuron-runtime/api/nrt_experimental.rst` of the AWS Neuron
//! documentation.

mod api;
mod model;
mod runtime;
mod status;
mod tensor;

pub use model::{Model, TensorInfo, Usage};
pub use runtime::{Found, Runtime};
pub use status::{NeuronError, Status};
pub use tensor::{Dtype, Tensor, TensorSet};
