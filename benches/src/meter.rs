//! [`Meter`]: what was asked on the command line, how a time is taken, and one line for each result.
//!
//! Must not know: what is measured. Invariant: a time is a median, of at least five samples unless only a smoke run was
//! asked for.

use crate::cx;
use koma_kernels::{Isa, Probe, ProbeMemory, probe};
use std::io::Write;
use std::time::{Duration, Instant};

/// Samples of which the median counts, at least.
const LEAST: usize = 5;
/// A sample lasts at least so long: the clock itself takes a twentieth of a microsecond.
const SAMPLE: Duration = Duration::from_micros(20);

/// A bench's flags: `cargo bench -p koma-benches --bench NAME -- [--json] [--seconds S] [WORD...]`. Lines whose names have
/// all the words are measured. Without cargo's `--bench` every body runs once, which only shows that it runs.
#[derive(Debug)]
pub struct Meter {
    words: Vec<String>,
    json: bool,
    time: Duration,
    limits: Option<Limits>,
}

/// What the machine gives, measured at the start of this run: bytes or operations a second of all threads.
#[derive(Debug, Clone, Copy)]
struct Limits {
    read: f64,
    f32: f64,
    bf16: f64,
    int8: f64,
}

/// What one call does.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Bytes that it must read and write.
    pub bytes: usize,
    /// Operations; a multiply-add counts two.
    pub operations: usize,
    /// What does them: [`Probe::F32`], [`Probe::Bf16`] or [`Probe::Int8`].
    pub unit: Probe,
}

impl Meter {
    /// From the command line.
    ///
    /// # Panics
    /// If a flag is not known: there is nothing to measure then.
    pub fn new() -> Self {
        let mut meter = Self {
            words: Vec::new(),
            json: false,
            time: Duration::ZERO,
            limits: None,
        };
        let (mut seconds, mut measured) = (0.1, false);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => measured = true,
                "--json" => meter.json = true,
                "--seconds" => {
                    let value = arguments.next().and_then(|text| text.parse().ok());
                    seconds = value.expect("--seconds takes a number");
                }
                word => {
                    assert!(!word.starts_with('-'), "{word} is no flag of a bench");
                    meter.words.push(word.to_owned());
                }
            }
        }
        if measured {
            meter.time = Duration::from_secs_f64(seconds);
        }
        meter
    }

    /// Whether a line of this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.words.iter().all(|word| name.contains(word.as_str()))
    }

    /// Whether times count; otherwise everything runs once.
    pub fn measures(&self) -> bool {
        !self.time.is_zero()
    }

    /// Median seconds of one call of `body`, warmed up by one call.
    pub fn seconds(&self, mut body: impl FnMut()) -> f64 {
        let begun = Instant::now();
        body();
        if !self.measures() {
            return begun.elapsed().as_secs_f64();
        }
        let mut calls = 1;
        loop {
            let begun = Instant::now();
            (0..calls).for_each(|_| body());
            if begun.elapsed() >= SAMPLE {
                break;
            }
            calls *= 2;
        }
        let started = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < LEAST || started.elapsed() < self.time {
            let begun = Instant::now();
            (0..calls).for_each(|_| body());
            samples.push(begun.elapsed().as_secs_f64() / f64::from(calls));
        }
        median(&mut samples)
    }

    /// Measures and writes one line: time, bytes, operations, and what part of this machine's limits that is.
    pub fn line(&mut self, name: &str, work: Work, body: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        let seconds = self.seconds(body);
        let limits = self.limits();
        let (bytes, operations) = (work.bytes as f64, work.operations as f64);
        let memory = bytes / seconds / limits.read;
        let arithmetic = operations / seconds / limits.of(work.unit);
        let unit = work.unit.name();
        if self.json {
            write(&format!(
                "{{\"name\":\"{name}\",\"seconds\":{seconds:e},\"bytes\":{bytes},\"operations\":{operations},\"unit\":\"{unit}\",\
                 \"share_of_memory\":{memory:.4},\"share_of_operations\":{arithmetic:.4}}}"
            ));
        } else {
            write(&format!(
                "{name:<44}{:>12}  {:>10} {:>4.0} % of read  {:>10} {:>4.0} % of {unit}",
                duration(seconds),
                si(bytes, "B"),
                100.0 * memory,
                si(operations, "op"),
                100.0 * arithmetic,
            ));
        }
    }

    /// Writes a line of a time alone, with what it must not be above, if it must not.
    pub fn bound(&self, name: &str, seconds: f64, bound: Option<f64>) {
        let holds = bound.map(|bound| seconds <= bound);
        if self.json {
            let null = || "null".to_owned();
            let bound = bound.map_or_else(null, |bound| format!("{bound:e}"));
            let holds = holds.map_or_else(null, |holds| holds.to_string());
            write(&format!(
                "{{\"name\":\"{name}\",\"seconds\":{seconds:e},\"bound\":{bound},\"holds\":{holds}}}"
            ));
            return;
        }
        let bound = bound.map_or(String::new(), |bound| {
            let verdict = if seconds <= bound { "holds" } else { "MISSED" };
            format!("  at most {}: {verdict}", duration(bound))
        });
        write(&format!("{name:<60}{:>12}{bound}", duration(seconds)));
    }

    /// Writes a line for people; nothing with `--json`.
    pub fn note(&self, text: &str) {
        if !self.json {
            write(text);
        }
    }

    fn limits(&mut self) -> Limits {
        if let Some(limits) = self.limits {
            return limits;
        }
        let limits = Limits::measure(self.time);
        self.limits = Some(limits);
        self.note(&format!(
            "this machine, measured now: read {}, f32 {}, bf16 {}, int8 {}. Weights and caches are taken in turns from more \
             memory than the caches hold; activations stay in them.",
            si(limits.read, "B/s"),
            si(limits.f32, "op/s"),
            si(limits.bf16, "op/s"),
            si(limits.int8, "op/s"),
        ));
        limits
    }
}

fn write(line: &str) {
    // A reader who left is not an error of the bench.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Limits {
    fn measure(time: Duration) -> Self {
        // Several times a large cache.
        let bytes = if time.is_zero() { 1 << 20 } else { 256 << 20 };
        let mut memory = ProbeMemory::new(bytes).expect("memory for a bench");
        let cx = cx(Isa::detect());
        let mut rate = |what| {
            probe(
                &cx,
                what,
                &mut memory,
                time.max(Duration::from_millis(1)) * 3,
            )
        };
        Self {
            read: rate(Probe::Read),
            f32: rate(Probe::F32),
            bf16: rate(Probe::Bf16),
            int8: rate(Probe::Int8),
        }
    }

    fn of(&self, unit: Probe) -> f64 {
        match unit {
            Probe::Read | Probe::Copy => self.read,
            Probe::F32 => self.f32,
            Probe::Bf16 => self.bf16,
            Probe::Int8 => self.int8,
        }
    }
}

/// The middle one; of an even number the upper one.
///
/// # Panics
/// If there is none.
pub fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.2} us", s * 1e6),
        s if s < 1.0 => format!("{:.3} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}

/// A number with a prefix of a thousand.
fn si(value: f64, unit: &str) -> String {
    let prefixes = ["", "k", "M", "G", "T"];
    let power = (value.max(1.0).log10() / 3.0).floor().min(4.0) as usize;
    format!(
        "{:.1} {}{unit}",
        value / 1e3f64.powi(power as i32),
        prefixes[power]
    )
}
