//! How fast a model will be, before it is loaded.
//!
//! The model runs over weights without values in a tracing context: that gives the products and the attention of each kind of
//! step, and the time of all the rest. Products and attention of these shapes are then measured for some milliseconds each on
//! values of no meaning. A step takes the sum.
//!
//! Owns: the steps that a load makes, the sum. Must not know: files, flags.
//!
//! Invariant: every second of a forecast was measured on this machine with the kernels that will run; memory is bounded
//! whatever the size of the model.

mod measure;
mod rehearsal;
#[cfg(test)]
mod tests;

use crate::EngineConfig;
use koma_models::kernels::{Error, Format, Isa, Op, Team};
use koma_models::{Model, Outline};
use measure::{Rates, sampling};
use rehearsal::Rehearsal;
use std::sync::Arc;

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

/// One step: its operations, each with how often it comes, and what takes time beside them.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    tokens: usize,
    /// Rows of logits.
    rows: usize,
    operations: Vec<(Op, usize)>,
    rest: f64,
}

/// Queries of each request in a step, tokens that it then has, and whether its prompt is then whole.
type Lens = Vec<(usize, usize, bool)>;

/// Forecasts how `model`, which `outline` describes and whose weights may be hollow, takes `load` under `config`. Takes some
/// seconds.
///
/// # Errors
/// If the device fails.
pub fn forecast(
    (outline, model): (&Outline, Model),
    load: &ForecastLoad,
    config: &EngineConfig,
    team: &Arc<Team>,
    isa: Isa,
) -> Result<Forecast, Error> {
    let mut rehearsal = Rehearsal::new((outline, model), config, (team, isa))?;
    let prompts = prompt_steps(load, config.max_batch_tokens);
    let prefill = prompts
        .iter()
        .map(|lens| rehearsal.step(lens))
        .collect::<Result<Vec<_>, _>>()?;
    let middle = load.input_len + load.output_len / 2;
    let mut decode = |batch: usize| match load.output_len {
        0 => Ok(None),
        _ => rehearsal.step(&vec![(1, middle, true); batch]).map(Some),
    };
    let (together, alone) = (decode(load.batch)?, decode(1)?);
    let step_bytes = rehearsal.largest(config)?;
    let steps: Vec<&Step> = prefill.iter().chain(&together).chain(&alone).collect();
    let mut rates = Rates::measure(&steps, config.block_size, (team, isa))?;
    if !outline.cache_groups.is_empty() {
        rates.sampling = sampling(outline.limits.vocab);
    }
    let time = |op: &Op| rates.seconds(op);
    let phase = |step: &Step| step.phase(&time, rates.sampling);
    let all = prefill.iter().map(phase).fold(Phase::default(), Phase::and);
    Ok(Forecast {
        step_bytes,
        prefill: all,
        decode: together.as_ref().map(phase),
        decode_alone: alone.as_ref().map(phase),
        formats: rates.formats(),
    })
}

impl Phase {
    fn and(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            products: self.products + other.products,
            attention: self.attention + other.attention,
            rest: self.rest + other.rest,
            bytes: self.bytes + other.bytes,
            operations: self.operations + other.operations,
        }
    }
}

impl Step {
    /// Its parts, where `time` says how long an operation takes and `sampling` how long a row of logits.
    fn phase(&self, time: &dyn Fn(&Op) -> f64, sampling: f64) -> Phase {
        let mut phase = Phase {
            tokens: self.tokens,
            rest: self.rest + self.rows as f64 * sampling,
            ..Phase::default()
        };
        for (op, count) in &self.operations {
            let count = *count as f64;
            phase.bytes += count * op.bytes();
            phase.operations += count * op.operations();
            let seconds = count * time(op);
            match op {
                Op::Product { .. } => phase.products += seconds,
                Op::Attention { .. } => phase.attention += seconds,
            }
        }
        phase
    }

    /// Bytes of weights that it reads.
    fn weight_bytes(&self) -> f64 {
        let products = self.operations.iter();
        let products = products.filter(|(op, _)| matches!(op, Op::Product { .. }));
        products.map(|(op, count)| *count as f64 * op.bytes()).sum()
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
