//! The cache of a model on a GPU: what is free of the device's memory once everything else is there, found by measurement.
//!
//! Must not know: which models are on the device. Invariant: what a step needs is there before the cache takes the rest.

use crate::{EngineConfig, StartError};
use koma_models::kernels::cuda::Gpu;
use koma_models::kernels::{Cx, Error, GroupKind, KvCache};
use koma_models::{Batch, Loaded, Model, Workspace};

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
    step(loaded, &config, cx)?;
    let (used, limit) = gpu.memory();
    let free = limit.saturating_sub(used);
    if matches!(loaded.model, Model::Decoder(_)) {
        config.cache_bytes = (free - free / SPARE) / parts.max(1);
    }
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

/// Computes a step of as many tokens, requests and logits as there can be.
fn step(loaded: &Loaded, config: &EngineConfig, cx: &Cx) -> Result<(), Error> {
    let groups = loaded.model.cache_groups();
    let recurrent = |kind| matches!(kind, GroupKind::Recurrent { .. });
    if groups.iter().any(|group| recurrent(group.kind)) {
        // States stay on the host.
        return Ok(());
    }
    let (tokens, size) = (config.max_batch_tokens, config.block_size);
    let longest = loaded.limits.max_len.min(tokens);
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
        }
        blocks += len.div_ceil(size);
    }
    let rows = config.max_running.min(tokens);
    batch
        .logit_rows
        .extend((tokens - rows) as u32..tokens as u32);
    let mut work = Workspace::default();
    match &loaded.model {
        Model::Decoder(model) => {
            let mut cache = KvCache::on(cx, &groups, blocks, size, config.kv_dtype)?;
            model.forward(cx, &batch, &mut cache, &mut work)?;
        }
        Model::Encoder(model) => model.forward(cx, &batch, &mut work)?,
    }
    cx.settle(&mut work.output)
}
