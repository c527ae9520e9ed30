//! [`probe`]: what memory and arithmetic units of this machine give, measured with the instructions that the operations use.
//!
//! Must not know: operations. Invariant: a probe does nothing but what it counts, so it is a bound for operations.

use crate::Cx;
use crate::cpu::isa::dispatch;
use crate::cpu::probe::{Compute, Copy, Read};
use crate::cpu::shared::Shared;
use crate::memory::Zeroed;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Bytes read from memory, one after the other.
    Read,
    /// Bytes copied, each counted twice: read and written.
    Copy,
    /// f32 operations of multiply-add, two each.
    F32,
    /// The same of bf16 pairs, summed in f32.
    Bf16,
    /// The same of int8 quadruples, summed in i32.
    Int8,
}

impl Probe {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Copy, Self::F32, Self::Bf16, Self::Int8];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Copy => "copy",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Whether it counts bytes; the others count operations.
    pub fn counts_bytes(self) -> bool {
        matches!(self, Self::Read | Self::Copy)
    }
}

/// Memory that is read and copied: in huge pages, as weights are, so that a product reads no faster than the probe.
#[derive(Debug)]
pub struct ProbeMemory(Zeroed<f32>);

impl ProbeMemory {
    /// About so many bytes; none if there are not as many. It should be several times the last-level cache.
    pub fn new(bytes: usize) -> Option<Self> {
        let mut memory = Zeroed::new(bytes / size_of::<f32>())?.in_huge_pages();
        memory.fill(1.0);
        Some(Self(memory))
    }
}

/// Parts that a thread gets of the memory, so that a slow thread does not hold up all.
const PARTS: usize = 8;
/// Measurements of which the median counts, at least.
const LEAST: usize = 5;

/// Bytes or operations a second of all threads of `cx` together: the median of short measurements that take about `time`.
/// `memory` is what is read and copied.
pub fn probe(cx: &Cx, what: Probe, memory: &mut ProbeMemory, time: Duration) -> f64 {
    let started = Instant::now();
    let mut rates = Vec::new();
    while rates.len() < LEAST || started.elapsed() < time {
        let begun = Instant::now();
        let count = once(cx, what, &mut memory.0);
        rates.push(count as f64 / begun.elapsed().as_secs_f64().max(1e-9));
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// One region; what it did, in bytes or operations.
fn once(cx: &Cx, what: Probe, memory: &mut [f32]) -> usize {
    let isa = cx.isa();
    let threads = cx.threads();
    match what {
        Probe::Read => {
            let all = &*memory;
            let part = all.len().div_ceil(threads * PARTS).max(1);
            let parts: Vec<&[f32]> = all.chunks(part).collect();
            cx.run(parts.len(), &|chunk| dispatch(isa, Read(parts[chunk])));
            size_of_val(all)
        }
        Probe::Copy => {
            let half = memory.len() / 2;
            let (from, to) = memory.split_at_mut(half);
            let part = half.div_ceil(threads * PARTS).max(1);
            let to = Shared::new(&mut to[..half]);
            cx.run(half.div_ceil(part), &|chunk| {
                let range = chunk * part..half.min((chunk + 1) * part);
                // SAFETY: chunks are ranges that do not overlap.
                let to = unsafe { to.part(range.clone()) };
                let from = &from[range];
                dispatch(isa, Copy { from, to });
            });
            2 * size_of_val(&*from)
        }
        Probe::F32 | Probe::Bf16 | Probe::Int8 => {
            cx.run(threads, &|_| dispatch(isa, Compute(what)));
            threads * Compute::operations(what, isa)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, Isa, Team};
    use std::sync::Arc;

    #[test]
    fn every_probe_counts_on_every_path() {
        for isa in Isa::here() {
            let cx = Cx::new(Arc::new(Team::new(2)), Class::Throughput, isa);
            let mut memory = ProbeMemory::new(4004).unwrap();
            memory.0[..500].fill(2.0);
            for what in Probe::ALL {
                let rate = probe(&cx, what, &mut memory, Duration::ZERO);
                assert!(rate.is_finite() && rate > 0.0, "{what:?} {isa:?}");
            }
            // The copy is one, to the last value; what lies behind it stays.
            assert!(memory.0[..1000].iter().all(|v| *v == 2.0));
            assert_eq!(memory.0[1000], 1.0);
            assert_eq!(once(&cx, Probe::Read, &mut memory.0), 4004);
            assert_eq!(once(&cx, Probe::Copy, &mut memory.0), 4000);
        }
    }
}
