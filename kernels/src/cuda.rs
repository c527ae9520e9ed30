//! NVIDIA GPUs: the operations of this crate on a CUDA device, behind the same public functions.
//!
//! Owns: the driver and cuBLASLt, which are looked for when they are asked for and never linked; device memory; the device code
//! of `cuda/` and its launches. Must not know: models, requests.
//!
//! How it fits in:
//! - A [`crate::Cx`] has a team and, if it was made for one, a [`Gpu`] with a stream of its own. Every public operation asks its
//!   context once, after its checks, and goes to the CPU body or to the launcher in `ops`.
//! - [`crate::Rows`] keep their values on the side that wrote them last and carry them over when the other side asks
//!   (`mirror`), so an operation without a launcher still works: it only costs a copy.
//! - A weight goes to the device when a product first needs it (`weight`), packed as it is on the CPU: the 32 rows that lie side
//!   by side there are the 32 lanes of a warp here. Plain values become rows of their own, as cuBLASLt takes them.
//! - Products go one of three ways (`way`); without cuBLASLt there are two. Attention goes one of two (`ops::attention::tiles`).
//! - A cache is made for a device ([`crate::KvCache::on`]) and has the CPU's layout (`cache::layer`).
//! - Small arrays that stay (weights of norms) are kept on the device and compared with what is there (`constants`); those of a
//!   step (positions, tables) go there together (`inputs`).
//! - What is asked for is kept (`commands`) and goes to the device with the first wait for a result, the whole of a step as
//!   a graph if it came before (`graphs`). What fails is kept by the stream, later work on it is skipped, and
//!   [`crate::Cx::check`] tells: a step asks once, at its end.
//!
//! Invariant: the order of a row's sums depends on that row, and in products of cuBLASLt on the power of two that the number of
//! rows is rounded up to.

mod blas;
mod cache;
mod chooser;
mod commands;
mod constants;
mod driver;
mod gpu;
mod graphs;
mod inputs;
mod mirror;
pub(crate) mod ops;
mod pinned;
mod pool;
#[cfg(feature = "cuda-emu")]
pub mod stand_in;
mod stream;
mod sums;
mod upload;
mod way;
mod weight;

pub(crate) use cache::DeviceBlocks;
pub use chooser::{Change, Choice, Chooser, Penalties};
pub use gpu::{Gpu, GpuInfo};
pub use graphs::Submitted;
pub(crate) use mirror::Mirror;
pub(crate) use stream::Stream;
pub use upload::Upload;
pub use way::{Attend, Way};
pub(crate) use weight::OnDevice;
