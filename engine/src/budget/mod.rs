//! What the machine has, and who gets how much of it: threads, weights, caches.
//!
//! Owns: the smaller of machine and container limits ([`Machine`]), blocks of a cache, the split over models ([`plan`]).
//! Must not know: flags and environment, how weights are loaded.
//!
//! Invariant: a plan that is given out fits into the memory that is there; one that cannot is an error with the number
//! that is needed.

mod machine;
mod placement;
mod survey;
#[cfg(test)]
mod tests;

pub use machine::Machine;
pub use placement::{Placement, Topology};
pub use survey::Survey;

use crate::{EngineConfig, StartError};
use koma_models::Outline;
use koma_models::kernels::{CacheGroup, GroupKind, KvDtype};
use std::fmt;

/// Most bytes of a cache unless it is said how many.
const DEFAULT_CACHE: usize = 4 << 30;

/// What one model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelNeed {
    /// The model.
    pub name: String,
    /// Bytes of its weights.
    pub weight_bytes: usize,
    /// Bytes of cache that one request of full length needs; 0 for a model without a cache.
    pub request_bytes: usize,
    /// Tokens of such a request.
    pub max_len: usize,
    /// Bytes of cache, if the user says so.
    pub cache_bytes: Option<usize>,
}

impl ModelNeed {
    /// What the model `name` needs, with blocks of `block_size` tokens stored as `kv_dtype`.
    pub fn of(
        name: &str,
        model: &Outline,
        block_size: usize,
        kv_dtype: KvDtype,
        cache_bytes: Option<usize>,
    ) -> Self {
        let (groups, max_len) = (&model.cache_groups, model.limits.max_len);
        let blocks = blocks_of_request(groups, block_size, max_len);
        Self {
            name: name.to_owned(),
            weight_bytes: model.weight_bytes,
            request_bytes: blocks.saturating_mul(bytes_per_block(groups, block_size, kv_dtype)),
            max_len,
            cache_bytes,
        }
    }
}

/// What one model gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelBudget {
    /// The model.
    pub name: String,
    /// Bytes of its weights.
    pub weight_bytes: usize,
    /// Bytes of its cache.
    pub cache_bytes: usize,
}

/// Who gets how much. Its text is what is printed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Threads of the team.
    pub threads: usize,
    /// Bytes that were available.
    pub memory: usize,
    /// The models, in their order.
    pub models: Vec<ModelBudget>,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            threads, memory, ..
        } = self;
        write!(
            f,
            "{threads} threads, {} of memory available",
            Size(*memory)
        )?;
        for model in &self.models {
            let (weights, cache) = (Size(model.weight_bytes), Size(model.cache_bytes));
            write!(f, "; {}: weights {weights}, cache {cache}", model.name)?;
        }
        Ok(())
    }
}

/// The memory does not hold the models.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Not even the weights and one request of full length each.
    #[error(
        "the models need {} ({weights} bytes of weights, {caches} bytes of cache for one request of full length each), but only {} are available; lower --max-model-len or --kv-cache-memory, or serve fewer models",
        Size(*needed), Size(*available)
    )]
    Memory {
        /// Bytes needed.
        needed: usize,
        /// Of these, weights.
        weights: usize,
        /// Of these, caches.
        caches: usize,
        /// Bytes available.
        available: usize,
    },
    /// A cache that was asked for does not hold one request.
    #[error(
        "model `{model}`: a cache of {given} bytes is asked for, but one request of the model's length ({max_len} tokens) needs {needed} bytes; raise --kv-cache-memory or lower --max-model-len"
    )]
    Cache {
        /// The model.
        model: String,
        /// Bytes asked for.
        given: usize,
        /// Bytes needed.
        needed: usize,
        /// The model's window.
        max_len: usize,
    },
}

/// Splits the memory of `machine` (as it was before the models were loaded) over `models`. A cache whose size is not
/// given gets an equal part of half of what weights and given caches leave, at most 4 GiB, at least one request of full
/// length.
///
/// # Errors
/// If it does not hold.
pub fn plan(machine: &Machine, models: &[ModelNeed]) -> Result<Budget, BudgetError> {
    let too_small = |m: &&ModelNeed| m.cache_bytes.is_some_and(|given| given < m.request_bytes);
    if let Some(model) = models.iter().find(too_small) {
        return Err(BudgetError::Cache {
            model: model.name.clone(),
            given: model.cache_bytes.unwrap_or_default(),
            needed: model.request_bytes,
            max_len: model.max_len,
        });
    }
    let least = |m: &ModelNeed| match m.cache_bytes {
        Some(given) if m.request_bytes > 0 => given,
        _ => m.request_bytes,
    };
    let sum =
        |of: &dyn Fn(&ModelNeed) -> usize| models.iter().map(of).fold(0, usize::saturating_add);
    let (weights, caches) = (sum(&|m| m.weight_bytes), sum(&least));
    let needed = weights.saturating_add(caches);
    let Some(left) = machine.memory.checked_sub(needed) else {
        return Err(BudgetError::Memory {
            needed,
            weights,
            caches,
            available: machine.memory,
        });
    };
    let open = |m: &ModelNeed| m.request_bytes > 0 && m.cache_bytes.is_none();
    // What is left above the least: half of it stays free for activations, the page cache and everybody else.
    let share = left / 2 / models.iter().filter(|m| open(m)).count().max(1);
    let cache = |m: &ModelNeed| {
        if open(m) {
            m.request_bytes
                .max(DEFAULT_CACHE.min(m.request_bytes.saturating_add(share)))
        } else {
            least(m)
        }
    };
    let models = models.iter().map(|m| ModelBudget {
        name: m.name.clone(),
        weight_bytes: m.weight_bytes,
        cache_bytes: cache(m),
    });
    Ok(Budget {
        threads: machine.cores,
        memory: machine.memory,
        models: models.collect(),
    })
}

/// Blocks in each of `groups` that the configured cache has.
///
/// # Errors
/// If it does not hold one request of full length.
pub(crate) fn blocks(
    groups: &[CacheGroup],
    config: &EngineConfig,
    max_len: usize,
    model: &str,
) -> Result<usize, StartError> {
    if groups.is_empty() {
        return Ok(0);
    }
    let block_bytes = bytes_per_block(groups, config.block_size, config.kv_dtype).max(1);
    // Slots are counted in 32 bits.
    let most = (u32::MAX as usize - 1) / config.block_size;
    let blocks = (config.cache_bytes / block_bytes).min(most);
    let needed = blocks_of_request(groups, config.block_size, max_len);
    if blocks < needed {
        return Err(StartError::CacheTooSmall {
            model: model.to_owned(),
            given: config.cache_bytes,
            fits: blocks.saturating_mul(config.block_size),
            max_len,
            needed: needed.saturating_mul(block_bytes),
        });
    }
    Ok(blocks)
}

/// Tokens that the configured cache holds; 0 for a model without one.
///
/// # Errors
/// If it does not hold one request of full length.
pub fn cache_tokens(
    model: &Outline,
    config: &EngineConfig,
    name: &str,
) -> Result<usize, StartError> {
    let blocks = blocks(&model.cache_groups, config, model.limits.max_len, name)?;
    Ok(blocks.saturating_mul(config.block_size))
}

/// Blocks per group that a request of `len` tokens needs when it is alone.
fn blocks_of_request(groups: &[CacheGroup], block_size: usize, len: usize) -> usize {
    let recurrent = |group: &CacheGroup| matches!(group.kind, GroupKind::Recurrent { .. });
    // A recurrent group needs the state it reads and the one it writes.
    let least = match groups {
        [] => return 0,
        groups if groups.iter().any(recurrent) => 2,
        _ => 1,
    };
    len.div_ceil(block_size.max(1)).max(least)
}

/// Bytes of one block in every group.
fn bytes_per_block(groups: &[CacheGroup], block_size: usize, dtype: KvDtype) -> usize {
    groups
        .iter()
        .map(|group| group.block_bytes(block_size, dtype))
        .fold(0, usize::saturating_add)
}

/// Bytes for people.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1024.0 * 1024.0;
        let mib = self.0 as f64 / MIB;
        if mib >= 1024.0 {
            write!(f, "{:.1} GiB", mib / 1024.0)
        } else {
            write!(f, "{mib:.1} MiB")
        }
    }
}
