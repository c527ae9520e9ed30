//! [`Tiles`]: which queries go through tiles on tensor cores (`cuda/attention_tiles.cuh`), and by which kernel. The one place where
//! that is decided.
//!
//! A request of many rows goes through tiles, one of few through the plain kernel, which shares long contexts among blocks; both may
//! be in one step. A query's bits differ between the two, as a row's do between the ways of products (`way`): queries and exponentials
//! are rounded in tiles. Which it is depends on the request's own rows in the step, and on nothing beside it.

use super::plan::FEW_ROWS;
use crate::cuda::blas::Kind;
use crate::cuda::stream::Stream;
use crate::cuda::way::Attend;
use crate::cuda::weight::halves;
use crate::{Error, Fault, HeadLayout, KvDtype};

/// Queries that tensor cores multiply at once: fewer would leave them idle.
const FRAGMENT: usize = 16;

/// The kernel of a cache and a width of heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    pub(super) kernel: &'static str,
    /// Queries of a block at most, and its threads.
    pub(super) queries: usize,
    pub(super) threads: u32,
    /// Few rows go through tiles, too.
    always: bool,
}

/// Values of a head up to which a kernel goes, and its warps, as in `cuda/attention_tiles.cu`.
const WIDTHS: [(usize, usize); 3] = [(64, 4), (128, 4), (256, 3)];

macro_rules! kernels {
    ($store:literal) => {
        [
            concat!("attention_tiles_", $store, "_d64"),
            concat!("attention_tiles_", $store, "_d128"),
            concat!("attention_tiles_", $store, "_d256"),
        ]
    };
}

/// The kernels of a cache. What is multiplied is what the cache has, in 16 bits: its own, or else bf16, whose range no query and no
/// exponential leaves, or f16 where tensor cores have no bf16; in f16 a query beyond 65,504 is infinite, as activations of products are.
/// None for an f32 cache, and for one of bf16 there.
fn kernels(dtype: KvDtype, halves: Kind) -> Option<[&'static str; 3]> {
    Some(match (dtype, halves) {
        (KvDtype::F32, _) | (KvDtype::Bf16, Kind::F16) => return None,
        (KvDtype::Bf16, _) => kernels!("bf16"),
        (KvDtype::F16, _) => kernels!("f16"),
        (KvDtype::Fp8, Kind::F16) => kernels!("fp8_f16"),
        (KvDtype::Fp8, _) => kernels!("fp8_bf16"),
        (KvDtype::Int8, Kind::F16) => kernels!("int8_f16"),
        (KvDtype::Int8, _) => kernels!("int8_bf16"),
    })
}

impl Tiles {
    /// For a cache of `dtype`, if there are any.
    pub(super) fn of(
        stream: &Stream,
        layout: &HeadLayout,
        dtype: KvDtype,
    ) -> Result<Option<Self>, Error> {
        let wished = stream.attention();
        if wished == Some(Attend::Plain) {
            return Ok(None);
        }
        let (k, v) = (layout.k_dim, layout.v_dim);
        let width = WIDTHS.iter().position(|(width, _)| k.max(v) <= *width);
        let width = width.filter(|_| k.is_multiple_of(8) && v.is_multiple_of(8));
        let kernels = kernels(dtype, halves(stream));
        match (width, kernels) {
            (Some(width), Some(kernels)) => Ok(Some(Self {
                kernel: kernels[width],
                queries: FRAGMENT * WIDTHS[width].1,
                threads: 32 * WIDTHS[width].1 as u32,
                always: wished.is_some(),
            })),
            _ if wished.is_none() => Ok(None),
            _ => Err(Error::Device(
                Fault::Other,
                format!("no tiles for heads of {k} and {v} values in {dtype:?}"),
            )),
        }
    }

    /// Whether a request's `rows` rows go through them.
    pub(super) fn take(&self, rows: usize, layout: &HeadLayout) -> bool {
        let queries = rows * (layout.q_heads / layout.kv_heads);
        self.always || rows > FEW_ROWS && queries >= FRAGMENT
    }

    /// The kernel that does not wait until its tiles are there, for the tests' control.
    #[cfg(all(test, feature = "cuda-emu"))]
    pub(super) fn without_barrier() -> Self {
        Self {
            kernel: "attention_tiles_bf16_d64_without_barrier",
            queries: 64,
            threads: 128,
            always: true,
        }
    }
}
