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
//!   by side there are the 32 lanes of a warp here. Plain values become rows of their own, for cuBLASLt.
//! - A cache is made for a device ([`crate::KvCache::on`]) and has the CPU's layout (`cache::layer`).
//! - Small arrays of a step (positions, tables, norms' weights) are kept on the device and compared with what is there
//!   (`constants`).
//! - Launches do not wait. What fails is kept by the stream, later work on it is skipped, and [`crate::Cx::check`] tells: a step
//!   asks once, at its end.
//!
//! Invariant: the order of a row's sums depends on that row, and in products of cuBLASLt on the power of two that the number of
//! rows is rounded up to.

mod blas;
mod cache;
mod chooser;
mod constants;
mod driver;
mod gpu;
mod mirror;
pub(crate) mod ops;
mod pinned;
mod pool;
#[cfg(feature = "cuda-emu")]
pub mod stand_in;
mod stream;
mod upload;
mod weight;

pub(crate) use cache::DeviceBlocks;
pub use chooser::{Change, Choice, Chooser, Penalties};
pub use gpu::{Gpu, GpuInfo};
pub(crate) use mirror::Mirror;
pub(crate) use stream::Stream;
pub use upload::Upload;
pub(crate) use weight::OnDevice;
