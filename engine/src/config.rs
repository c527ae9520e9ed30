//! [`EngineConfig`]: one model's limits, resolved before the engine starts and never changed after.

use crate::StartError;
use koma_models::kernels::{Class, KvDtype};
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Most requests that run at once, continuations counted one by one; never more than `max_batch_tokens`.
    pub max_running: usize,
    /// Most requests that wait; one more is refused ([`crate::SubmitError::QueueFull`]).
    pub max_waiting: usize,
    /// Token budget of a step.
    pub max_batch_tokens: usize,
    /// Tokens per cache block.
    pub block_size: usize,
    /// Bytes of the cache; rounded down to whole blocks. Ignored for models without cache groups.
    pub cache_bytes: usize,
    /// On a GPU: the cache gets one of so many equal parts of what is free of the device's memory then, and `cache_bytes` does
    /// not count.
    pub cache_parts: Option<usize>,
    /// Whether steps of a GPU that come again are replayed as graphs.
    pub graphs: bool,
    /// How keys and values are stored.
    pub kv_dtype: KvDtype,
    /// Whether that is nobody's wish: a GPU without bf16 stores f16 in its place.
    pub kv_auto: bool,
    /// Whether equal prefixes share blocks.
    pub prefix_cache: bool,
    /// Part of all blocks (0 to 1) that admission keeps free while something is running.
    pub watermark: f64,
    /// Who goes first at the team.
    pub class: Class,
    /// A step that takes longer than this is reported as hung, and the step records are dumped.
    pub hung_after: Duration,
    /// Where step records are dumped on a panic or a hung step; no dump if none.
    pub dump_dir: Option<PathBuf>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_running: 128,
            max_waiting: 1024,
            max_batch_tokens: 2048,
            block_size: 16,
            cache_bytes: 1 << 30,
            cache_parts: None,
            graphs: true,
            kv_dtype: KvDtype::Bf16,
            kv_auto: false,
            prefix_cache: true,
            watermark: 0.01,
            class: Class::Throughput,
            hung_after: Duration::from_mins(1),
            dump_dir: None,
        }
    }
}

impl EngineConfig {
    /// The settings of a model on `gpu`.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn on(mut self, gpu: &koma_models::kernels::cuda::Gpu) -> Self {
        if self.kv_auto && self.kv_dtype == KvDtype::Bf16 && !gpu.has_bf16() {
            self.kv_dtype = KvDtype::F16;
        }
        self
    }

    /// # Errors
    /// The first setting that is out of range.
    pub(crate) fn validate(&self) -> Result<(), StartError> {
        let refuse = |field, message: String| Err(StartError::Config { field, message });
        for (field, value) in [
            ("max_running", self.max_running),
            ("max_waiting", self.max_waiting),
            ("max_batch_tokens", self.max_batch_tokens),
            ("block_size", self.block_size),
        ] {
            if value == 0 || value > 1 << 30 {
                return refuse(field, format!("must be from 1 to 2^30, but is {value}"));
            }
        }
        if !(0.0..1.0).contains(&self.watermark) {
            let message = format!("must be from 0 to below 1, but is {}", self.watermark);
            return refuse("watermark", message);
        }
        if self.hung_after.is_zero() {
            return refuse("hung_after", "must be above 0".to_owned());
        }
        Ok(())
    }
}
