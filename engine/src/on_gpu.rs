//! The cache of a model on a GPU: what is free of the device's memory once everything else is there, found by measurement.
//!
//! Must not know: which models are on the device. Invariant: what a step needs is there before the cache takes the rest.

use crate::{EngineConfig, StartError};
use koma_models::kernels::cuda::Gpu;
use koma_models::kernels::{CacheGroup, Cx, Error, Isa, KvCache, Team};
use koma_models::{Batch, Loaded, Model, Outline, StateSlots, Workspace};
use std::sync::Arc;

/// Of what is free one part in so many stays free: the splits of long contexts and what rounding takes.
const SPARE: usize = 16;

/// `config` with the cache that the device has room for, where that is asked for ([`EngineConfig::cache_parts`]): a step as large
/// as there can be is computed first, whose memory `cx` keeps.
///
/// # Errors
/// If the device has no room for the step.
pub(crate) fn measured(
    loaded: &Loaded,
    mut config: EngineConfig,
    (gpu, cx): (&Gpu, &Cx),
) -> Result<EngineConfig, StartError> {
    let Some(parts) = config.cache_parts else {
        return Ok(config);
    };
    step((&loaded.model, loaded.limits.max_len), &config, cx)?;
    if matches!(loaded.model, Model::Decoder(_)) {
        config.cache_bytes = left(gpu, parts);
    }
    let (used, limit) = gpu.memory();
    tracing::info!(
        model = loaded.identity.name,
        device = format!("cuda:{}", gpu.info().number),
        limit,
        used,
        weights = loaded.weight_bytes,
        cache = config.cache_bytes,
        parts,
        "memory of a GPU, in bytes"
    );
    Ok(config)
}

/// What a model takes of a GPU's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemory {
    /// What all models on it may use.
    pub limit: usize,
    /// Weights, as they lie there.
    pub weights: usize,
    /// What the largest step needs beside weights and cache.
    pub step: usize,
    /// The cache; 0 for a model without one.
    pub cache: usize,
    /// What a token takes of it, all layers together.
    pub token: usize,
}

/// What `model`, which `outline` describes and whose weights (or stand-ins for them) are the only ones on `gpu`, takes of its memory
/// under `config`: found by computing the largest step there. The cache is what [`EngineConfig::cache_bytes`] says or, with
/// [`EngineConfig::cache_parts`], that part of what is left.
///
/// # Errors
/// If the device has no room for the step.
pub fn gpu_memory(
    (outline, model): (&Outline, &Model),
    mut config: EngineConfig,
    (gpu, team, isa): (&Arc<Gpu>, Arc<Team>, Isa),
) -> Result<GpuMemory, StartError> {
    let cx = Cx::new(team, config.class, isa).on(gpu)?;
    let (weights, limit) = gpu.memory();
    step((model, outline.limits.max_len), &config, &cx)?;
    let (used, _) = gpu.memory();
    if let Some(parts) = config.cache_parts {
        config.cache_bytes = left(gpu, parts);
    }
    let groups = &outline.cache_groups;
    let block = |group: &CacheGroup| group.block_bytes(config.block_size, config.kv_dtype);
    Ok(GpuMemory {
        limit,
        weights,
        step: used.saturating_sub(weights),
        cache: if groups.is_empty() {
            0
        } else {
            config.cache_bytes
        },
        token: groups.iter().map(block).sum::<usize>() / config.block_size,
    })
}

/// What one of `parts` caches gets of the memory that is not used yet.
fn left(gpu: &Gpu, parts: usize) -> usize {
    let (used, limit) = gpu.memory();
    let free = limit.saturating_sub(used);
    (free - free / SPARE) / parts.max(1)
}

/// Computes a step of as many tokens, requests and logits as there can be.
fn step((model, max_len): (&Model, usize), config: &EngineConfig, cx: &Cx) -> Result<(), Error> {
    let groups = model.cache_groups();
    let (tokens, size) = (config.max_batch_tokens, config.block_size);
    let longest = max_len.min(tokens);
    let mut batch = Batch::default();
    batch.clear(groups.len());
    let mut blocks = 0;
    while batch.ids.len() < tokens {
        let len = longest.min(tokens - batch.ids.len());
        batch.ids.resize(batch.ids.len() + len, 0);
        batch.positions.extend(0..len as u32);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.kv_lens.push(len as u32);
        for group in &mut batch.groups {
            let first = blocks * size;
            group
                .slot_mapping
                .extend((first..first + len).map(|slot| slot as u32));
            let last = blocks + len.div_ceil(size);
            group.tables.push((blocks..last).map(|block| block as u32));
            group.states.push(StateSlots {
                read: None,
                write: blocks as u32,
            });
        }
        blocks += len.div_ceil(size);
    }
    let rows = config.max_running.min(tokens);
    batch
        .logit_rows
        .extend((tokens - rows) as u32..tokens as u32);
    let mut work = Workspace::default();
    match model {
        Model::Decoder(model) => {
            let mut cache = KvCache::on(cx, &groups, blocks, size, config.kv_dtype)?;
            model.forward(cx, &batch, &mut cache, &mut work)?;
        }
        Model::Encoder(model) => model.forward(cx, &batch, &mut work)?,
    }
    cx.settle(&mut work.output)
}
