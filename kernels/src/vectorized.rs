//! [`Vectorized`]: plain loops of other crates, compiled for the processor's vectors.
//!
//! Must not know: what is computed. Invariant: only the instructions differ. No multiply-add is fused and no sum reordered, so
//! the bits are the same on every path.

use crate::Isa;

/// A piece of work that is compiled for each path.
pub trait Vectorized {
    /// What it gives.
    type Output;

    /// Must be `#[inline(always)]`, as must be all that it calls: only then is it compiled with the path's features.
    fn run(self) -> Self::Output;
}

impl Isa {
    /// Runs `work` on this path or, if the processor lacks it, on the best that it has.
    #[inline]
    pub fn run<V: Vectorized>(self, work: V) -> V::Output {
        match self.or_less() {
            Self::Portable => work.run(),
            // SAFETY: the processor has the path's features, as was just detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => unsafe { on_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { on_avx512(work) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => work.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn on_avx2<V: Vectorized>(work: V) -> V::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn on_avx512<V: Vectorized>(work: V) -> V::Output {
    work.run()
}
