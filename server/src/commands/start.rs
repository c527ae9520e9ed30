//! From a [`ModelConfig`] to a loaded model and the settings of its engine: what all commands do alike.

use super::device::{Devices, OnGpu};
use crate::config::{LocalConfig, LogFormat, ModelConfig, ProcessConfig};
use crate::progress::{Progress, Unit};
use anyhow::{Context, anyhow, ensure};
use koma_engine::models::kernels::{Class, Team, give_back};
use koma_engine::models::{
    Limits, LoadOptions, LoadProgress, Loaded, Model, Outline, Phase, load, local, outline,
};
use koma_engine::{EngineConfig, EngineHandle, Machine, ModelNeed, plan_budget};
use koma_server::ServedModel;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// `model` with its source on this machine: what is not there yet is fetched or unpacked now, which is shown, and nobody is
/// asked for it again.
///
/// # Errors
/// If it cannot be had.
pub(super) fn fetched(model: &ModelConfig, process: &ProcessConfig) -> anyhow::Result<ModelConfig> {
    let source = local(&model.source, &options(model, process));
    Ok(ModelConfig {
        source: source.with_context(|| cannot_load(model))?,
        ..model.clone()
    })
}

/// Loads `model`, showing how far it is, and puts it where it shall be computed. Its window is cut to what is configured.
///
/// # Errors
/// If it cannot be loaded, or is configured for more than it can do.
pub(super) fn load_model(
    model: &ModelConfig,
    process: &ProcessConfig,
    (devices, gpu): (&Devices, &OnGpu),
) -> anyhow::Result<Loaded> {
    let options = on(gpu, options(model, process));
    let loaded = load(&model.source, &options).with_context(|| cannot_load(model))?;
    let mut loaded = devices.place(model, &options, loaded)?;
    limit(model, &mut loaded.limits)?;
    give_back();
    Ok(loaded)
}

/// How `model` is loaded, with how far it is on the terminal or in the log.
pub(super) fn options(model: &ModelConfig, process: &ProcessConfig) -> LoadOptions {
    let may_draw = process.log_format == LogFormat::Text;
    let name = model.name.clone();
    let shown: Mutex<Option<(Phase, Progress)>> = Mutex::new(None);
    let progress = move |LoadProgress { phase, done, total }: LoadProgress| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|(before, _)| *before != phase) {
            let verb = match phase {
                Phase::Fetching => "fetching",
                Phase::Unpacking => "unpacking",
                Phase::Loading => "loading",
            };
            // The bar before it must be gone first.
            *shown = None;
            let title = format!("{verb} {name}");
            *shown = Some((phase, Progress::start(title, Unit::Bytes, may_draw)));
        }
        if let Some((_, bar)) = &*shown {
            bar.set(done, total);
        }
    };
    LoadOptions {
        name: model.name.clone(),
        dtype: model.dtype,
        isa: Some(process.isa),
        max_len: model.max_model_len,
        #[cfg(feature = "cuda")]
        upload: None,
        fetch: process.fetch.clone(),
        progress: Some(Arc::new(progress)),
    }
}

/// `options` of a model that `gpu` computes, if there is one.
pub(super) fn on(gpu: &OnGpu, options: LoadOptions) -> LoadOptions {
    #[cfg(feature = "cuda")]
    let options = LoadOptions {
        upload: gpu.clone(),
        ..options
    };
    let _ = gpu;
    options
}

/// Settings of the engine of a model that generates or not, with a cache of `cache_bytes`.
pub(super) fn engine_config(
    model: &ModelConfig,
    generates: bool,
    cache_bytes: usize,
) -> EngineConfig {
    EngineConfig {
        max_running: model.max_running,
        max_batch_tokens: model.batch_tokens(generates),
        cache_bytes,
        kv_dtype: model.kv_dtype,
        kv_auto: model.kv_auto,
        graphs: model.device.graphs,
        class: model.class.unwrap_or(if generates {
            Class::Throughput
        } else {
            Class::Latency
        }),
        ..EngineConfig::default()
    }
}

pub(super) fn generates(loaded: &Loaded) -> bool {
    matches!(loaded.model, Model::Decoder(_))
}

/// Where records of steps that hung or panicked are written.
pub(super) fn dump_dir(data_dir: Option<&Path>) -> PathBuf {
    let folder = data_dir.map_or_else(crate::args::temporary_folder, Path::to_owned);
    folder.join("dumps")
}

/// What a model needs of this machine's memory as `model` configures it: nothing, if a GPU computes it. `outline`: of the loaded
/// model, or from the heads of its files.
pub(super) fn need(model: &ModelConfig, gpu: &OnGpu, outline: &Outline) -> ModelNeed {
    let block_size = EngineConfig::default().block_size;
    let cache_bytes = model.kv_cache_bytes;
    let need = ModelNeed::of(
        &model.name,
        outline,
        block_size,
        model.kv_dtype,
        cache_bytes,
    );
    match gpu {
        None => need,
        Some(_) => ModelNeed {
            weight_bytes: 0,
            request_bytes: 0,
            ..need
        },
    }
}

/// What `model` needs, before it is loaded.
///
/// # Errors
/// If it cannot be loaded, or is configured for more than it can do.
pub(super) fn expected_need(
    model: &ModelConfig,
    process: &ProcessConfig,
    gpu: &OnGpu,
) -> anyhow::Result<ModelNeed> {
    let options = on(gpu, options(model, process));
    let mut known = outline(&model.source, &options).with_context(|| cannot_load(model))?;
    // A window that is cut by tokenizer or pooling configuration is checked once they are read.
    if !known.cache_groups.is_empty() {
        limit(model, &mut known.limits)?;
    }
    Ok(need(model, gpu, &known))
}

pub(super) fn cannot_load(model: &ModelConfig) -> String {
    format!("model `{}` cannot be loaded", model.name)
}

/// Cuts the window to what is configured.
pub(super) fn limit(model: &ModelConfig, limits: &mut Limits) -> anyhow::Result<()> {
    if let Some(asked) = model.max_model_len {
        let own = limits.max_len;
        // One number for all models means at most this much; one for this model means this much.
        ensure!(
            asked <= own || !model.max_model_len_own,
            "model `{}`: its max-model-len is {asked}, but the model's own limit is {own} tokens",
            model.name
        );
        limits.max_len = asked.min(own);
    }
    Ok(())
}

/// One model for this process alone: loaded, and started with a cache that holds one request of full length, unless more
/// is asked for.
///
/// # Errors
/// If the memory does not hold it, or it cannot be loaded.
pub(super) fn single(config: &LocalConfig) -> anyhow::Result<ServedModel> {
    let LocalConfig {
        process,
        model,
        data_dir,
    } = config;
    let model = &fetched(model, process)?;
    let machine = Machine {
        cores: process.threads,
        ..Machine::detect()
    };
    let gpu = Devices::gpu(model)?;
    plan_budget(&machine, &[expected_need(model, process, &gpu)?])?;
    let loaded = load_model(model, process, (&Devices::default(), &gpu))?;
    let need = need(model, &gpu, &loaded.outline());
    plan_budget(&machine, std::slice::from_ref(&need))?;
    let cache_bytes = need.cache_bytes.unwrap_or(need.request_bytes);
    let mut engine = engine_config(model, generates(&loaded), cache_bytes);
    engine.cache_parts = (gpu.is_some() && need.cache_bytes.is_none()).then_some(1);
    engine.dump_dir = Some(dump_dir(data_dir.as_deref()));
    let team = Arc::new(Team::new(process.threads));
    let handle = EngineHandle::start(loaded, engine, team, process.isa)?;
    ServedModel::new(handle, model.root.clone())
        .map_err(|reason| anyhow!("model `{}`: {reason}", model.name))
}

/// A runtime for a command that waits for one thing after the other.
///
/// # Errors
/// If the system refuses.
pub(super) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")
}
