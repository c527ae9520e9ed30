//! What a step costs beside the model: `cargo bench -p koma-benches --bench scheduler`.
//!
//! A step of the real scheduler (deadlines, plan, rows taken in, blocks grown and published, requests that end and others
//! that come), and the sampler over a row of 49,152 logits as a part of a step of a model of SmolLM2-135M's shape, which is
//! measured in the same run.

use koma_benches::{Llama, Meter, Random};
use koma_engine::drill::{SamplerDrill, SchedulerDrill};
use koma_engine::{SamplingOptions, SamplingParams};
use koma_kernels::Format;
use std::hint::black_box;

const VOCABULARY: usize = 49_152;
/// What sampling may take of a step.
const SHARE: f64 = 0.05;

fn main() {
    let meter = Meter::new();
    for (running, bound) in [(1, None), (16, Some(10e-6)), (128, Some(50e-6))] {
        for (what, output) in [("long outputs", 20_000), ("64 tokens each", 64)] {
            let name = format!("scheduler step, {running} running, {what}");
            if meter.wants(&name) {
                let mut drill = SchedulerDrill::new(running, 128, output);
                // The mean over whole lives of requests, where they end: a step in which one ends costs more.
                let steps = if output > 1000 { 1 } else { 4 * output };
                let seconds = meter.seconds(|| {
                    for _ in 0..steps {
                        black_box(drill.step());
                    }
                });
                meter.bound(&name, seconds / steps as f64, bound);
            }
        }
    }
    if meter.wants("sampling") {
        sampling(&meter);
    }
}

fn sampling(meter: &Meter) {
    let row = logits();
    let options = [
        ("greedy", (0.0, 0, 1.0)),
        ("temperature 1", (1.0, 0, 1.0)),
        ("temperature 0.8, top-p 0.95", (0.8, 0, 0.95)),
        ("temperature 0.8, top-k 40, top-p 0.95", (0.8, 40, 0.95)),
    ];
    let steps = [1, 16].map(|batch| {
        let mut model = Llama::smollm2(Format::Q4_0, (batch, 1, 128));
        (batch, meter.seconds(|| model.step()))
    });
    for (batch, step) in steps {
        meter.bound(
            &format!("a step of {batch}, Q4_0, without sampling"),
            step,
            None,
        );
        for (what, (temperature, top_k, top_p)) in options {
            let options = SamplingOptions {
                temperature: Some(temperature),
                top_k: Some(top_k),
                top_p: Some(top_p),
                ..SamplingOptions::default()
            };
            let params = SamplingParams::new(&options, VOCABULARY).expect("valid parameters");
            let mut sampler = SamplerDrill::default();
            let mut position = 0;
            let seconds = meter.seconds(|| {
                position += 1;
                for _ in 0..batch {
                    black_box(sampler.sample(&row, &params, position));
                }
            });
            let share = 100.0 * seconds / (step + seconds);
            let name =
                format!("sampling {batch} x {VOCABULARY}, {what} ({share:.1} % of the step)");
            // At most that part of the whole.
            meter.bound(&name, seconds, Some(step * SHARE / (1.0 - SHARE)));
        }
    }
}

/// Logits like a model's: most tokens far below, and some dozens that hold nearly all of the probability.
fn logits() -> Vec<f32> {
    let mut random = Random::new(9);
    let mut sum = || (0..6).map(|_| random.value()).sum::<f32>();
    let mut row: Vec<f32> = (0..VOCABULARY).map(|_| 1.4 * sum()).collect();
    for i in 0..64 {
        row[i * 761] = 18.0 - 1.5 * (i as f32).sqrt();
    }
    row
}
