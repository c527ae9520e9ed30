//! From a [`ModelConfig`] to a loaded model and the settings of its engine: what all commands do alike.

use crate::config::{LogFormat, ModelConfig, ProcessConfig};
use crate::progress::{Progress, Unit};
use anyhow::{Context, ensure};
use koma_engine::models::kernels::Class;
use koma_engine::models::{LoadOptions, LoadProgress, Loaded, Model, expected_memory, load};
use koma_engine::{EngineConfig, ModelNeed};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Loads `model`, showing how far it is. Its window is cut to what is configured.
///
/// # Errors
/// If it cannot be loaded, or is configured for more than it can do.
pub(super) fn load_model(
    model: &ModelConfig,
    process: &ProcessConfig,
    data_dir: Option<&Path>,
) -> anyhow::Result<Loaded> {
    let may_draw = process.log_format == LogFormat::Text;
    let title = format!("loading {}", model.name);
    let progress = Arc::new(Progress::start(title, Unit::Bytes, may_draw));
    let shown = Arc::clone(&progress);
    let options = LoadOptions {
        name: model.name.clone(),
        dtype: model.dtype,
        cache_dir: data_dir.map(|folder| folder.join("hub")),
        progress: Some(Arc::new(move |LoadProgress { done, total }| {
            shown.set(done, total);
        })),
    };
    let mut loaded = load(&model.source, &options)
        .with_context(|| format!("model `{}` cannot be loaded", model.name))?;
    if let Some(asked) = model.max_model_len {
        let own = loaded.limits.max_len;
        // One number for all models means at most this much; one for this model means this much.
        ensure!(
            asked <= own || !model.max_model_len_own,
            "model `{}`: its max-model-len is {asked}, but the model's own limit is {own} tokens",
            model.name
        );
        loaded.limits.max_len = asked.min(own);
    }
    Ok(loaded)
}

/// Settings of the engine of `loaded`, with a cache of `cache_bytes`.
pub(super) fn engine_config(
    model: &ModelConfig,
    loaded: &Loaded,
    cache_bytes: usize,
) -> EngineConfig {
    EngineConfig {
        max_running: model.max_running,
        max_batch_tokens: model.max_batch_tokens,
        cache_bytes,
        kv_dtype: model.kv_dtype,
        class: model.class.unwrap_or(match loaded.model {
            Model::Decoder(_) => Class::Throughput,
            Model::Encoder(_) => Class::Latency,
        }),
        ..EngineConfig::default()
    }
}

/// Where records of steps that hung or panicked are written.
pub(super) fn dump_dir(data_dir: Option<&Path>) -> PathBuf {
    let folder = data_dir.map_or_else(crate::args::temporary_folder, Path::to_owned);
    folder.join("dumps")
}

/// What `loaded` needs as `model` configures it.
pub(super) fn need(model: &ModelConfig, loaded: &Loaded) -> ModelNeed {
    let block_size = EngineConfig::default().block_size;
    ModelNeed::of(loaded, block_size, model.kv_dtype, model.kv_cache_bytes)
}

/// What `model` needs at least, as far as the heads of its files say. A model that cannot be read counts nothing here: loading
/// says what is wrong with it. The hub's files are not known yet.
pub(super) fn least_need(model: &ModelConfig) -> ModelNeed {
    let options = LoadOptions {
        name: model.name.clone(),
        dtype: model.dtype,
        ..LoadOptions::default()
    };
    let known = expected_memory(&model.source, &options).ok().flatten();
    ModelNeed {
        name: model.name.clone(),
        weight_bytes: usize::try_from(known.unwrap_or(0)).unwrap_or(usize::MAX),
        request_bytes: 0,
        max_len: 0,
        cache_bytes: None,
    }
}
