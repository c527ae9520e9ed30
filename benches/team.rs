//! What a parallel region costs by the size of the team: `cargo bench -p koma-benches --bench team`.
//!
//! Regions that follow each other at once, as within a step, and regions after the threads have gone to sleep, as at the
//! start of one; empty, and with the same arithmetic cut into parts. Teams larger than the machine show what it costs to have
//! more threads than cores.

use koma_benches::{Meter, median};
use koma_kernels::{Class, Team};
use std::hint::black_box;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Multiplications and additions, each after the one before: about 100 us by one thread at 4 GHz.
const WORK: usize = 50_000;
/// Longer than threads spin before they sleep.
const PAUSE: Duration = Duration::from_micros(500);
const PARTS: usize = 4;

fn main() {
    let meter = Meter::new();
    for threads in [1, 2, 4, 8] {
        let team = Team::new(threads);
        let run = |chunks: usize, work: usize| {
            team.run(Class::Throughput, chunks, &|_| {
                black_box(arithmetic(work));
            });
        };
        let region = |what: &str| format!("region, {threads} threads, {what}");
        let show = |name: String, measured: &dyn Fn() -> f64| {
            if meter.wants(&name) {
                meter.bound(&name, measured(), None);
            }
        };
        show(region("empty, one after the other"), &|| {
            meter.seconds(|| run(threads, 0))
        });
        show(region("empty, after a pause"), &|| {
            after_pauses(&meter, &|| run(threads, 0))
        });
        show(region("work in one part a thread"), &|| {
            meter.seconds(|| run(threads, WORK / threads))
        });
        show(region(&format!("work in {PARTS} parts a thread")), &|| {
            meter.seconds(|| run(PARTS * threads, WORK / threads / PARTS))
        });
    }
}

/// Median of regions with a pause before each, in which every thread goes to sleep.
fn after_pauses(meter: &Meter, region: &dyn Fn()) -> f64 {
    let (_sender, never) = channel::<()>();
    let count = if meter.measures() { 100 } else { 1 };
    let mut samples: Vec<f64> = (0..count)
        .map(|_| {
            // An error is the end of the pause.
            let _ = never.recv_timeout(PAUSE);
            let begun = Instant::now();
            region();
            begun.elapsed().as_secs_f64()
        })
        .collect();
    median(&mut samples)
}

fn arithmetic(count: usize) -> f32 {
    (0..black_box(count)).fold(black_box(0.5), |x: f32, _| x * 0.999 + 0.001)
}
