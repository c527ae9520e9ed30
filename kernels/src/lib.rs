//! Buffers, packed weights, the paged cache and the fused operations that models are made of.
//!
//! Owns: memory of activations ([`Rows`]), weights ([`PackedWeight`]) and cache ([`KvCache`]), the thread team, and one
//! public function per operation. Must not know: models, requests, text.
//!
//! Invariant (batch invariance): the value of an output row depends on that row's inputs only, bit for bit: not on the
//! number of rows beside it, on how a sequence was cut into chunks, or on the number of threads.
//!
//! Shapes are asserted once, in the public function of an operation: a mismatch is a bug in the caller, not bad input
//! (checkpoints are validated when they are loaded). Everything that can be wrong with a file is an [`Error`].

mod activation;
mod attention;
mod cache;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod cx;
mod error;
mod experts;
mod format;
mod grouped;
mod linear;
mod memory;
#[cfg(feature = "neuron")]
pub mod neuron;
mod norm;
mod pooling;
mod probe;
pub mod recurrent;
#[cfg(any(test, feature = "reference"))]
pub mod reference;
mod rope;
mod stand_in;
mod team;
mod tensor;
#[cfg(test)]
mod tests;
mod trace;
mod vectorized;
mod weight;

pub use activation::{gelu_erf, gelu_tanh, silu, silu_mul, soft_cap};
pub use attention::{AttnMeta, AttnSpec, BlockTables, HeadLayout, paged, varlen, varlen_one};
pub use cache::{CacheGroup, GroupKind, KvCache, KvDtype, KvLayer, StateLayer, write_kv};
pub use cx::{Cx, EachPart, EachRow, Isa};
pub use error::{Error, Fault};
pub use experts::{Routing, combine, linear_by_expert, route, spread};
pub use format::Format;
pub use grouped::{Code, GroupedRow, Groups, Scale};
pub use linear::{Epilogue, Then, linear};
pub use memory::give_back;
pub use norm::{layer_norm, rms_norm, rms_norm_add, rms_norm_heads};
pub use pooling::{Pooling, pool};
pub use probe::{Probe, ProbeMemory, probe};
pub use rope::{RopeTable, rope, rope_angles};
pub use stand_in::StandIns;
pub use team::{Class, Team, TeamStats};
pub use tensor::{Rows, add_rows, gather_rows, scale_rows};
pub use trace::Op;
pub use vectorized::Vectorized;
pub use weight::{PackedWeight, embed};
