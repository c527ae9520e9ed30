//! `koma plan`: what a model will need and how fast it will be, before it is loaded; on a GPU what it will need there.
//!
//! Owns: the questions. Must not know: how a model computes; the engine forecasts.
//!
//! Invariant: of the weights only the heads of the files are read (what is not on this machine is fetched), and what is said of memory is what loading will say.

#[cfg(feature = "cuda")]
mod gpu;
mod report;
#[cfg(test)]
mod tests;

use super::device::Devices;
use super::start;
use crate::config::{DeviceChoice, PlanConfig};
use crate::output::Results;
use anyhow::{Context, ensure};
use koma_engine::models::kernels::{StandIns, Team};
use koma_engine::models::{Outline, outline, rehearsal, tokenizer};
use koma_engine::{ForecastLoad, Machine, cache_tokens, forecast, plan_budget};
use report::{Memory, Report};
use std::sync::Arc;

/// Bytes of weights that a forecast goes through, at most: more than the processor's caches hold.
const STAND_INS: usize = 1 << 30;
/// Output tokens of each request, unless said otherwise.
const OUTPUT_LEN: usize = 64;

/// Forecasts, and writes the result.
///
/// # Errors
/// If the model could not be loaded, does not fit, or is not for such a load, or the result cannot be written.
pub(crate) fn plan(config: &PlanConfig) -> anyhow::Result<()> {
    let results = Results::open(config.json.as_deref())?;
    let gpu = Devices::gpu(&config.model)?;
    #[cfg(feature = "cuda")]
    if let Some(upload) = &gpu {
        let report = gpu::needs_of(config, upload)?;
        return results.write(&report.json(), &report.text());
    }
    let _ = gpu;
    let report = forecast_of(config)?;
    results.write(&report.json(), &report.text())
}

fn forecast_of(config: &PlanConfig) -> anyhow::Result<Report> {
    ensure!(
        config.model.device.choice != DeviceChoice::Neuron,
        "--device neuron: only the processors' work can be forecast, because a forecast is a rehearsal on the machine itself. What a Neuron \
         device does is measured on one: `koma serve --device neuron`, then `koma bench serve` (see neuron-export/README.md)"
    );
    let process = resident();
    let source = start::fetched(&config.model, &config.process)?.source;
    let options = start::options(&config.model, &config.process);
    let unloadable = || start::cannot_load(&config.model);
    let known = outline(&source, &options);
    let mut outline = known.with_context(unloadable)?;
    start::limit(&config.model, &mut outline.limits)?;
    let load = load(config, &outline)?;
    let before = resident();
    // Kept until its memory is known.
    let words = tokenizer(&source, &options).with_context(unloadable)?;
    let tokenizer = resident().saturating_sub(before);
    drop(words);

    let machine = Machine {
        cores: config.process.threads,
        ..Machine::detect()
    };
    let budget = plan_budget(&machine, &[start::need(&config.model, &None, &outline)])?;
    let share = &budget.models[0];
    let generates = !outline.cache_groups.is_empty();
    let engine = start::engine_config(&config.model, generates, share.cache_bytes);
    let cache_tokens = cache_tokens(&outline, &engine, &config.model.name)?;
    let wanted = load.batch.saturating_mul(load.input_len + load.output_len);
    ensure!(
        outline.cache_groups.is_empty() || wanted <= cache_tokens,
        "--batch: {} such requests need {wanted} tokens of cache, which holds {cache_tokens}; see --kv-cache-memory",
        load.batch
    );
    let team = Arc::new(Team::new(config.process.threads));
    let isa = config.process.isa;
    let stand_ins = StandIns::new(outline.weight_bytes.min(STAND_INS));
    let model = rehearsal(&source, &options, stand_ins).with_context(unloadable)?;
    let found = forecast((&outline, model), &load, &engine, &team, isa)?;
    Ok(Report {
        config: config.clone(),
        load,
        memory: Memory {
            available: budget.memory,
            weights: share.weight_bytes,
            cache: share.cache_bytes,
            cache_tokens,
            steps: found.step_bytes,
            tokenizer,
            process,
        },
        max_batch_tokens: engine.max_batch_tokens,
        outline,
        found,
    })
}

/// The load, if the model can take it.
fn load(config: &PlanConfig, outline: &Outline) -> anyhow::Result<ForecastLoad> {
    let generates = !outline.cache_groups.is_empty();
    ensure!(
        generates || config.output_len.is_none(),
        "--output-len: the model `{}` does not generate",
        config.model.name
    );
    ensure!(
        config.batch <= config.model.max_running,
        "--batch: {} requests are more than run at once (--max-running is {})",
        config.batch,
        config.model.max_running
    );
    let output_len = match config.output_len {
        _ if !generates => 0,
        given => given.unwrap_or(OUTPUT_LEN),
    };
    let (needed, most) = (config.input_len + output_len, outline.limits.max_len);
    ensure!(
        needed <= most,
        "--input-len, --output-len: {needed} tokens are more than the model's limit of {most}"
    );
    let step = config.model.batch_tokens(generates);
    ensure!(
        generates || config.input_len <= step,
        "--input-len: {} tokens are more than one step takes (--max-batch-tokens is {step})",
        config.input_len
    );
    Ok(ForecastLoad {
        batch: config.batch,
        input_len: config.input_len,
        output_len,
    })
}

/// Bytes of memory that this process has now; 0 if that cannot be found out.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}
