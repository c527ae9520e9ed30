//! The launchers: one for each public operation that has a kernel. Shapes were checked by the operation.

mod attention;
mod experts;
mod fp8;
mod linear;
mod recurrent;
mod rows;

#[cfg(all(test, feature = "cuda-emu"))]
pub(crate) use attention::paged_without_barrier;
pub(crate) use attention::{paged, varlen, write_kv};
pub(crate) use experts::{DeviceRouting, by_expert, combine, route, spread};
#[cfg(all(test, feature = "cuda-emu"))]
pub(crate) use linear::linear_swapped;
pub(crate) use linear::{embed, grouped};
pub(crate) use recurrent::mix_states;
#[cfg(all(test, feature = "cuda-emu"))]
pub(crate) use rows::rms_norm_without_barrier;
pub(crate) use rows::{
    add_rows, gather, layer_norm, pool, rms_norm, rms_norm_heads, rope, rope_angles, scale,
    silu_mul, soft_cap,
};

use super::Stream;
use crate::{Error, Rows};
use std::sync::Arc;

/// Threads of a block in kernels that take values one by one.
const EACH: u32 = 256;
/// Blocks of such a kernel at most; the rest is a loop.
const MOST_BLOCKS: usize = 4096;

/// The grid of such a kernel for `count` values.
fn each(count: usize) -> super::stream::Grid {
    super::stream::Grid::of(count.div_ceil(EACH as usize).min(MOST_BLOCKS), EACH)
}

impl Rows {
    /// Where the values are on the device.
    pub(super) fn on(&self, stream: &Arc<Stream>) -> Result<u64, Error> {
        self.mirror().on(stream, self.host())
    }

    /// Where an operation writes them all.
    pub(super) fn write_on(&mut self, stream: &Arc<Stream>) -> Result<u64, Error> {
        let len = self.rows() * self.width();
        self.mirror_mut().0.write_on(stream, len)
    }

    /// Where an operation changes them.
    pub(super) fn change_on(&mut self, stream: &Arc<Stream>) -> Result<u64, Error> {
        let len = self.rows() * self.width();
        let (mirror, data) = self.mirror_mut();
        mirror.change_on(stream, &data[..len])
    }
}
