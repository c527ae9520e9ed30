//! What a model needs of a GPU: its weights' stand-ins lie there, and the largest step is computed, as when it is served.
//!
//! Nothing is said of speed: that is measured (`koma bench`).

use super::{STAND_INS, load, start};
use crate::config::PlanConfig;
use anyhow::Context;
use koma_engine::models::kernels::cuda::{GpuInfo, Upload};
use koma_engine::models::kernels::{StandIns, Team};
use koma_engine::models::{Outline, outline, rehearsal};
use koma_engine::{EngineConfig, GpuMemory, cache_tokens, gpu_memory};
use serde_json::{Value, json};
use std::sync::Arc;

/// The schema of [`Needs::json`]; a change that breaks readers takes the next number.
const SCHEMA: &str = "koma.plan.gpu/1";
const MIB: f64 = 1024.0 * 1024.0;

/// The result.
#[derive(Debug)]
pub(super) struct Needs {
    config: PlanConfig,
    gpu: GpuInfo,
    outline: Outline,
    engine: EngineConfig,
    memory: GpuMemory,
    /// Tokens that the cache holds; 0 for a model without one.
    cache_tokens: usize,
}

/// Rehearses on the GPU that `upload` leads to.
///
/// # Errors
/// If the model could not be loaded, is not for such a load, or the GPU has no room for weights, step or the cache of one request.
pub(super) fn needs_of(config: &PlanConfig, upload: &Upload) -> anyhow::Result<Needs> {
    let source = start::fetched(&config.model, &config.process)?.source;
    let options = start::on(
        &Some(upload.clone()),
        start::options(&config.model, &config.process),
    );
    let unloadable = || start::cannot_load(&config.model);
    let mut outline = outline(&source, &options).with_context(unloadable)?;
    start::limit(&config.model, &mut outline.limits)?;
    load(config, &outline)?;
    let generates = !outline.cache_groups.is_empty();
    let asked = config.model.kv_cache_bytes;
    let engine = start::engine_config(&config.model, generates, asked.unwrap_or(0));
    let mut engine = engine.on(upload.gpu());
    engine.cache_parts = asked.is_none().then_some(1);
    let model = rehearsal(&source, &options, StandIns::new(STAND_INS)).with_context(unloadable)?;
    let device = (
        upload.gpu(),
        Arc::new(Team::new(config.process.threads)),
        config.process.isa,
    );
    let memory = gpu_memory((&outline, &model), engine.clone(), device)?;
    engine.cache_bytes = memory.cache;
    Ok(Needs {
        config: config.clone(),
        gpu: upload.gpu().info().clone(),
        cache_tokens: cache_tokens(&outline, &engine, &config.model.name)?,
        outline,
        engine,
        memory,
    })
}

impl Needs {
    fn sum(&self) -> usize {
        let GpuMemory {
            weights,
            step,
            cache,
            ..
        } = self.memory;
        weights + step + cache
    }

    pub(super) fn json(&self) -> Value {
        let (outline, memory, model) = (&self.outline, &self.memory, &self.config.model);
        json!({
            "schema": SCHEMA,
            "device": {
                "number": self.gpu.number,
                "name": self.gpu.name,
                "compute_capability": format!("{}.{}", self.gpu.capability.0, self.gpu.capability.1),
                "memory_bytes": self.gpu.memory,
            },
            "model": {
                "name": model.name,
                "source": model.root,
                "architecture": outline.architecture,
                "format": outline.format,
                "parameters": outline.parameters,
                "max_len": outline.limits.max_len,
            },
            "settings": {
                "kv_dtype": self.engine.kv_dtype.name(),
                "max_running": model.max_running,
                "max_batch_tokens": self.engine.max_batch_tokens,
                "gpu_memory_utilization": f64::from(model.device.gpu_memory) / 1000.0,
            },
            "memory_bytes": {
                "available": memory.limit,
                "weights": memory.weights,
                "step": memory.step,
                "cache": memory.cache,
                "cache_per_token": memory.token,
                "in_all": self.sum(),
            },
            "cache_tokens": self.cache_tokens,
        })
    }

    pub(super) fn text(&self) -> String {
        let (outline, memory, model) = (&self.outline, &self.memory, &self.config.model);
        let (major, minor) = self.gpu.capability;
        let steps = format!(
            "the largest: {} tokens or {} requests",
            self.engine.max_batch_tokens, model.max_running
        );
        let cache = match self.cache_tokens {
            0 => "none".to_owned(),
            tokens => format!("{tokens} tokens of {} bytes each", memory.token),
        };
        let share = f64::from(model.device.gpu_memory) / 1000.0;
        let free = format!(
            "of {:.1} MiB: {share} of what is free (--gpu-memory-utilization)",
            memory.limit as f64 / MIB
        );
        let rows = [
            ("weights", memory.weights, ""),
            ("step", memory.step, steps.as_str()),
            ("cache", memory.cache, cache.as_str()),
            ("in all", self.sum(), free.as_str()),
        ];
        let line = |(name, bytes, note): (&str, usize, &str)| {
            let line = format!("  {name:<16}{:>10.1} MiB   {note}", bytes as f64 / MIB);
            line.trim_end().to_owned() + "\n"
        };
        let table: String = rows.into_iter().map(line).collect();
        format!(
            "{}: {} {}, {:.1} M parameters, at most {} tokens a request\non cuda:{} ({}, compute capability {major}.{minor})\n\n{table}",
            model.name,
            outline.architecture,
            outline.format,
            outline.parameters as f64 / 1e6,
            outline.limits.max_len,
            self.gpu.number,
            self.gpu.name,
        )
    }
}

#[cfg(all(test, feature = "cuda-emu"))]
mod tests {
    use super::*;
    use crate::commands::device::Devices;
    use crate::commands::plan::tests::{config, folder};
    use koma_engine::EngineHandle;
    use koma_engine::models::kernels::cuda::stand_in::Device;

    /// As `koma serve` would find it: the same weights, the same cache, and no more than there may be.
    #[test]
    fn memory_is_what_serving_takes() {
        for (name, arguments) in [
            ("golden/llama/model", "--input-len 4 --output-len 3"),
            (
                "golden/qwen3_moe/model",
                "--input-len 4 --output-len 3 --kv-dtype fp8-e4m3",
            ),
            (
                "models/intent",
                "--input-len 8 --gpu-memory-utilization 0.5",
            ),
        ] {
            let planned = Device::new();
            let arguments_on = |device: &Device| {
                device.set("memory", 128 << 20);
                let flags = "--max-batch-tokens 64 --max-running 8 --device cuda:";
                config(
                    &folder(name),
                    &format!("{arguments} {flags}{}", device.number()),
                )
            };
            let config = arguments_on(&planned);
            let upload = Devices::gpu(&config.model).unwrap().expect("a GPU");
            let needs = needs_of(&config, &upload).unwrap();
            drop(upload);
            let (memory, generates) = (needs.memory, !needs.outline.cache_groups.is_empty());

            let served = Device::new();
            let config = arguments_on(&served);
            let gpu = Devices::gpu(&config.model).unwrap();
            let loaded =
                start::load_model(&config.model, &config.process, (&Devices::default(), &gpu));
            let loaded = loaded.unwrap();
            let gpu = Arc::clone(gpu.expect("a GPU").gpu());
            assert_eq!(gpu.memory(), (memory.weights, memory.limit), "{name}");
            let mut engine = start::engine_config(&config.model, generates, 0);
            engine.cache_parts = Some(1);
            let team = Arc::new(Team::new(1));
            let handle = EngineHandle::start(loaded, engine, team, config.process.isa).unwrap();
            let info = handle.info();
            assert_eq!(info.config.cache_bytes, memory.cache, "{name}");
            let tokens = info.blocks * info.config.block_size;
            assert_eq!(needs.cache_tokens, tokens, "{name}");
            assert!(memory.weights > 0 && memory.step > 0 && needs.sum() <= memory.limit);
            assert_eq!(memory.cache > 0, generates);
            let text = needs.text();
            assert!(
                text.contains("on cuda:") && text.contains("host emulation"),
                "{text}"
            );
            assert_eq!(needs.json()["memory_bytes"]["weights"], memory.weights);
        }
    }

    /// What does not fit is refused as it would be when it is loaded.
    #[test]
    fn what_the_gpu_has_no_room_for_is_refused() {
        let device = Device::new();
        device.set("memory", 1 << 16);
        let config = config(
            &folder("golden/llama/model"),
            &format!(
                "--input-len 4 --output-len 3 --device cuda:{}",
                device.number()
            ),
        );
        let upload = Devices::gpu(&config.model).unwrap().expect("a GPU");
        let error = format!("{:#}", needs_of(&config, &upload).unwrap_err());
        assert!(error.contains("no memory for"), "{error}");
    }
}
