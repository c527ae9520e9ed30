//! The operations on a device, on the stand-ins: the kernels' own sources against the naive bodies, over the tables of the CPU's
//! tests and with threads in several orders; and the calls that the driver sees.

mod attention;
mod attention_tiles;
mod experts;
mod fp8;
mod linear;
mod memory;
mod residual;
mod rows;
mod steps;

use super::*;
use crate::Fault;
use crate::cuda::Gpu;
use crate::cuda::stand_in::Device;

/// Values that are not within 1e-3 of what they should be.
fn far(got: &[f32], expected: &[f32]) -> usize {
    let apart = |(g, e): &(&f32, &f32)| (*g - *e).abs() > 1e-3 || g.is_nan();
    got.iter().zip(expected).filter(apart).count()
}

/// Whether the device code is built with sanitizers, which are slow: then tables are looked at in steps, in one order of threads.
const SANITIZED: bool = option_env!("KOMA_EMU_SANITIZE").is_some();

/// The order in which threads are numbered, and five others.
const SEEDS: &[i64] = if SANITIZED {
    &[3]
} else {
    &[-1, 1, 2, 3, 4, 5]
};

/// How far it is from one row of a table to the next.
const STEP: usize = if SANITIZED { 3 } else { 1 };

/// A context on a device of its own.
pub(super) struct World {
    device: Device,
    gpu: Arc<Gpu>,
    pub(super) cx: Cx,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(&[])
    }

    /// On a device with these settings.
    fn with(settings: &[(&str, i64)]) -> Self {
        let device = Device::new();
        for (what, value) in settings {
            device.set(what, *value);
        }
        let gpu = Gpu::open(device.number(), 1.0).expect("a device of the stand-in");
        let cx = cx(Isa::Portable, 1).on(&gpu).expect("a stream");
        Self { device, gpu, cx }
    }

    /// Asserts that nothing has failed on the device.
    #[track_caller]
    fn good(&self) {
        if let Err(error) = self.cx.check() {
            panic!("{error}: {}", Device::last_error());
        }
    }

    /// What `run` makes, the same bits for all orders of threads.
    #[track_caller]
    fn in_all_orders(&self, run: impl Fn(&Cx) -> Rows) -> Rows {
        let mut first: Option<Rows> = None;
        for &seed in SEEDS {
            self.device.set("seed", seed);
            let got = run(&self.cx);
            // Read before the next order.
            let got = Rows::from_vec(got.width().max(1), got.as_slice().to_vec());
            self.good();
            match &first {
                None => first = Some(got),
                Some(first) => {
                    assert_bits(&format!("seed {seed}"), got.as_slice(), first.as_slice());
                }
            }
        }
        first.expect("there are seeds")
    }
}
