//! How fast a model will be, before it is loaded.
//!
//! The model runs the steps that a load makes over weights with values of no meaning, each step for some milliseconds. Of many
//! steps some are run, and the others taken to lie between them as their operations do.
//!
//! Owns: the steps that a load makes, the sum. Must not know: files, flags.
//!
//! Invariant: every second of a forecast was measured on this machine with the kernels that will run.

mod measure;
mod rehearsal;
#[cfg(test)]
mod tests;

use crate::EngineConfig;
use koma_models::kernels::{Error, Format, Isa, Team};
use koma_models::{Model, Outline};
use measure::{formats, sampling};
use rehearsal::{Extent, Rehearsal};
use std::sync::Arc;

/// Steps of a kind that are run.
const STEPS: usize = 6;

/// What is asked of the model: all requests come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForecastLoad {
    /// Requests that run together.
    pub batch: usize,
    /// Tokens of each prompt.
    pub input_len: usize,
    /// Tokens that each generates; 0 for an encoder.
    pub output_len: usize,
}

/// The steps of one kind together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phase {
    /// Tokens that they compute.
    pub tokens: usize,
    /// Seconds of products.
    pub products: f64,
    /// Seconds of attention.
    pub attention: f64,
    /// Seconds of all the rest: norms, writes into the cache, sampling.
    pub rest: f64,
    /// Bytes of weights and cache that are read, at least.
    pub bytes: f64,
    /// Operations of products and attention.
    pub operations: f64,
}

impl Phase {
    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.products + self.attention + self.rest
    }

    /// Tokens a second.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds().max(f64::MIN_POSITIVE)
    }
}

/// What products of one format reached while they were measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FormatRate {
    /// The format.
    pub format: Format,
    /// Bytes of weights a second with one row.
    pub bytes: f64,
    /// Operations a second with as many rows as a prompt has.
    pub operations: f64,
}

/// What is to be expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Bytes of activations in the largest step that the configuration allows.
    pub step_bytes: usize,
    /// All prompts of the load; an encoder's whole work.
    pub prefill: Phase,
    /// One step of generating for all requests of the load, in the middle of their outputs.
    pub decode: Option<Phase>,
    /// The same for one request alone.
    pub decode_alone: Option<Phase>,
    /// What products reached.
    pub formats: Vec<FormatRate>,
}

/// Queries of each request in a step, tokens that it then has, and whether its prompt is then whole.
type Lens = Vec<(usize, usize, bool)>;

/// Forecasts how `model`, which `outline` describes and whose weights may be stand-ins, takes `load` under `config`. Takes
/// some seconds.
///
/// # Errors
/// If the device fails, or there is no memory for the cache.
pub fn forecast(
    (outline, model): (&Outline, Model),
    load: &ForecastLoad,
    config: &EngineConfig,
    team: &Arc<Team>,
    isa: Isa,
) -> Result<Forecast, Error> {
    let mut rehearsal = Rehearsal::new((outline, model), load, config, (team, isa))?;
    let row = match load.output_len {
        0 => 0.0,
        _ => sampling(outline.limits.vocab),
    };
    let prefill = all(
        &mut rehearsal,
        &prompt_steps(load, config.max_batch_tokens),
        row,
    )?;
    let middle = load.input_len + load.output_len / 2;
    let mut decode = |batch: usize| match load.output_len {
        0 => Ok(None),
        _ => rehearsal
            .time(&vec![(1, middle, true); batch], row)
            .map(Some),
    };
    let (together, alone) = (decode(load.batch)?, decode(1)?);
    Ok(Forecast {
        step_bytes: rehearsal.largest(config)?,
        prefill,
        decode: together,
        decode_alone: alone,
        formats: formats(rehearsal.timed()),
    })
}

/// All of these steps, of which some are run.
fn all(rehearsal: &mut Rehearsal, steps: &[Lens], sampling: f64) -> Result<Phase, Error> {
    let mut kinds: Vec<(&Lens, Extent, usize)> = Vec::new();
    for lens in steps {
        match kinds.iter_mut().find(|(known, ..)| *known == lens) {
            Some((.., count)) => *count += 1,
            None => kinds.push((lens, rehearsal.extent(lens)?, 1)),
        }
    }
    kinds.sort_by(|a, b| f64::total_cmp(&a.1.operations, &b.1.operations));
    let mut run = Vec::new();
    for at in chosen(kinds.len()) {
        run.push((at, rehearsal.time(kinds[at].0, sampling)?));
    }
    let mut sum = Phase::default();
    for (at, (_, extent, count)) in kinds.iter().enumerate() {
        let next = run.partition_point(|(known, _)| *known < at);
        let before = run[next.saturating_sub(usize::from(run[next].0 > at))].1;
        sum = sum.and(between(&before, &run[next].1, extent), *count);
    }
    Ok(sum)
}

/// Which of so many steps are run: the first, the last, and some evenly between them.
fn chosen(steps: usize) -> impl Iterator<Item = usize> {
    let run = steps.min(STEPS);
    (0..run).map(move |i| i * (steps - 1) / (run - 1).max(1))
}

/// A step of `extent`, whose operations lie between those of two others.
fn between(a: &Phase, b: &Phase, extent: &Extent) -> Phase {
    let way = b.operations - a.operations;
    let t = if way > 0.0 {
        (extent.operations - a.operations) / way
    } else {
        0.0
    };
    let mix = |a: f64, b: f64| a + t * (b - a);
    Phase {
        tokens: extent.tokens,
        products: mix(a.products, b.products),
        attention: mix(a.attention, b.attention),
        rest: mix(a.rest, b.rest),
        bytes: extent.bytes,
        operations: extent.operations,
    }
}

impl Phase {
    /// It and `count` times `other`.
    fn and(self, other: Self, count: usize) -> Self {
        let n = count as f64;
        Self {
            tokens: self.tokens + count * other.tokens,
            products: self.products + n * other.products,
            attention: self.attention + n * other.attention,
            rest: self.rest + n * other.rest,
            bytes: self.bytes + n * other.bytes,
            operations: self.operations + n * other.operations,
        }
    }
}

/// The steps that compute all prompts, in order, as full as they may be. Tokens that requests generate meanwhile are left
/// out: they are few. An encoder's requests are not cut.
fn prompt_steps(load: &ForecastLoad, max_tokens: usize) -> Vec<Lens> {
    let whole = load.output_len == 0;
    let max_tokens = if whole {
        max_tokens.max(load.input_len)
    } else {
        max_tokens.max(1)
    };
    let (mut steps, mut step, mut left) = (Vec::new(), Lens::new(), max_tokens);
    for _ in 0..load.batch {
        let mut done = 0;
        while done < load.input_len {
            if left == 0 || (whole && left < load.input_len) {
                steps.push(std::mem::take(&mut step));
                left = max_tokens;
            }
            let queries = left.min(load.input_len - done);
            done += queries;
            left -= queries;
            step.push((queries, done, done == load.input_len));
        }
    }
    steps.push(step);
    steps
}
