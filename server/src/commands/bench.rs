//! `koma bench`: throughput and latency of one model without HTTP, and of a server over HTTP (`serve`).
//!
//! Owns: the load (seeded random prompts of exact length, all different, no prefix cache), the clock, the result. Must
//! not know: how the engine schedules.
//!
//! Invariant: every number printed is made of raw samples that are in the JSON.

pub(super) mod environment;
mod latency;
mod load;
mod random;
mod report;
mod serve;
mod summary;
mod times;

use super::device::Devices;
use super::start;
use crate::config::{BenchConfig, LogFormat};
use crate::output::Results;
use crate::progress::{Progress, Unit};
use anyhow::{bail, ensure};
use koma_engine::models::kernels::Team;
use koma_engine::models::{Loaded, Model};
use koma_engine::{EngineConfig, EngineHandle, ModelInfo};
use load::{Arrivals, Load, Run};
use report::Report;
pub(crate) use serve::serve;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Output tokens of each request, unless said otherwise.
const OUTPUT_LEN: usize = 64;
/// Below this a run would measure how fast threads wake and what else the machine does.
const SHORTEST_RUN: Duration = Duration::from_millis(100);

/// Measures how many tokens a second a model computes, and writes the result.
///
/// # Errors
/// If the model cannot be loaded or is not for such a load, or the result cannot be written.
pub(crate) fn throughput(config: &BenchConfig) -> anyhow::Result<()> {
    let results = Results::open(config.json.as_deref())?;
    let report = measured(config, SHORTEST_RUN, |info, load, runs| {
        let runs = runs.iter().map(|batches| Run::of(batches));
        Report::new(config, info, load, runs.collect())
    })?;
    results.write(&report.json(), &report.table())
}

/// Measures how long requests take, and writes the result.
///
/// # Errors
/// As [`throughput`].
pub(crate) fn latency(config: &BenchConfig) -> anyhow::Result<()> {
    let results = Results::open(config.json.as_deref())?;
    let report = measured(config, Duration::ZERO, |info, load, runs| {
        latency::Report::new(config, info, load, &runs.concat())
    })?;
    results.write(&report.json(), &report.table())
}

/// Loads the model, runs the load, and makes `report` of the measured runs, each made of one batch or as many as last for
/// `shortest`.
fn measured<T>(
    config: &BenchConfig,
    shortest: Duration,
    report: impl FnOnce(&ModelInfo, &Load, Vec<Vec<Arrivals>>) -> T,
) -> anyhow::Result<T> {
    ensure!(
        config.batch <= config.model.max_running,
        "--batch: {} requests are more than run at once (--max-running is {})",
        config.batch,
        config.model.max_running
    );
    let model = start::fetched(&config.model, &config.process)?;
    let gpu = Devices::gpu(&model)?;
    let mut loaded = start::load_model(&model, &config.process, (&Devices::default(), &gpu))?;
    let load = fit(config, &mut loaded)?;
    let engine_config = engine_config(config, &loaded, &load);
    let team = Arc::new(Team::new(config.process.threads));
    let engine = EngineHandle::start(loaded, engine_config, team, config.process.isa)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let runs = runtime.block_on(measure(config, shortest, &engine, &load))?;
    let report = report(engine.info(), &load, runs);
    runtime.block_on(engine.shutdown(Instant::now()));
    Ok(report)
}

/// The load, if the model can take it. Cuts the model's window to what the load needs, so that the cache need not hold
/// more.
fn fit(config: &BenchConfig, loaded: &mut Loaded) -> anyhow::Result<Load> {
    let output_len = match (&loaded.model, config.output_len) {
        (Model::Decoder(_), asked) => Some(asked.unwrap_or(OUTPUT_LEN)),
        (Model::Encoder(_), None) => None,
        (Model::Encoder(_), Some(_)) => {
            bail!(
                "--output-len: the model `{}` does not generate",
                config.model.name
            )
        }
    };
    let needed = config.input_len + output_len.unwrap_or(0);
    let most = loaded.limits.max_len;
    ensure!(
        needed <= most,
        "--input-len, --output-len: {needed} tokens are more than the model's limit of {most}"
    );
    loaded.limits.max_len = needed;
    Ok(Load {
        batch: config.batch,
        input_len: config.input_len,
        shortest_input: config.shortest_input,
        output_len,
        vocab: loaded.limits.vocab,
        seed: config.seed,
    })
}

fn engine_config(config: &BenchConfig, loaded: &Loaded, load: &Load) -> EngineConfig {
    let mut engine = start::engine_config(&config.model, start::generates(loaded), 0);
    engine.prefix_cache = false;
    engine.watermark = 0.0;
    // The whole batch is submitted at once, and each of it has a token in every step.
    engine.max_waiting = engine.max_waiting.max(load.batch);
    engine.max_batch_tokens = engine.max_batch_tokens.max(load.batch);
    let groups = loaded.model.cache_groups();
    if !groups.is_empty() {
        let block: usize = groups
            .iter()
            .map(|group| group.block_bytes(engine.block_size, engine.kv_dtype))
            .sum();
        // A spare block each: nobody is preempted.
        let blocks = loaded.limits.max_len.div_ceil(engine.block_size) + 1;
        let needed = load.batch.saturating_mul(blocks).saturating_mul(block);
        engine.cache_bytes = config.model.kv_cache_bytes.unwrap_or(needed);
    }
    engine
}

async fn measure(
    config: &BenchConfig,
    shortest: Duration,
    engine: &EngineHandle,
    load: &Load,
) -> anyhow::Result<Vec<Vec<Arrivals>>> {
    let may_draw = config.process.log_format == LogFormat::Text;
    let progress = Progress::start("measuring", Unit::Runs, may_draw);
    let total = config.warmup + config.runs;
    let mut runs = Vec::with_capacity(total);
    let mut prompts = 0;
    for index in 0..total {
        progress.set(index as u64, total as u64);
        let (started, mut batches) = (Instant::now(), Vec::new());
        while batches.is_empty() || started.elapsed() < shortest {
            batches.push(load.batch(engine, prompts).await?);
            prompts += 1;
        }
        runs.push(batches);
    }
    progress.set(total as u64, total as u64);
    Ok(runs.split_off(config.warmup))
}
