//! [`Loaded`]: all there is to know of a model, as data. The engine and the server ask it instead of the architecture.

use crate::layers::encoder::EncoderSpec;
use crate::{Batch, Device, FetchOptions, Head, Tensors, Tokenizer, Workspace};
use koma_kernels::{CacheGroup, Cx, Error, Isa, KvCache};
use std::path::PathBuf;
use std::sync::Arc;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Hugging Face folder: config.json, safetensors, tokenizer.json.
    Folder(PathBuf),
    /// One GGUF file.
    Gguf(PathBuf),
    /// A folder packed as `.tar.gz`.
    Archive(PathBuf),
    /// A repository `owner/name` of the Hugging Face hub, optionally at a revision.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit; `main` if none.
        revision: Option<String>,
        /// One GGUF file of it: its name, or its format (`Q4_K_M`).
        file: Option<String>,
    },
    /// What lies in an S3 bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// How the names begin, or the whole name of an archive or GGUF file.
        prefix: String,
    },
}

/// Precision of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// As stored where a kernel exists for it (block formats stay packed), else the nearest that has one. Matrices that
    /// are wider than the precision named by config.json (`dtype`, `torch_dtype`) are rounded to it, as transformers does.
    /// An encoder whose weights are not quantized is in bf16 where the processor multiplies that ([`LoadOptions::isa`]).
    #[default]
    Auto,
    /// Dequantized weights, f32 activations: the exact mode.
    F32,
    /// Weights in bf16.
    Bf16,
    /// Of an encoder, the products between its tokens in int8 ([`koma_kernels::Format::Int8`]: a scale for each row of a weight, made when it is
    /// loaded, and one for each token's activations); tables, and what comes after pooling, in bf16. Quantized weights stay as they
    /// are stored. A decoder refuses it.
    Int8,
    /// Products in FP8, on GPUs that have them ([`koma_kernels::PackedWeight::with_fp8_activations`]): weights in e4m3 with a scale for each
    /// row, as an FP8 checkpoint has them or made when they are loaded, and activations in e4m3 with one for each token. Tables, heads and
    /// embeddings are in bf16; other quantized weights stay as they are stored.
    Fp8,
}

/// What is being done before a model is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Files come over the network.
    Fetching,
    /// An archive is unpacked.
    Unpacking,
    /// Weights are read into memory.
    Loading,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// What.
    pub phase: Phase,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// How to load.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// The name the model is served under.
    pub name: String,
    /// Precision.
    pub dtype: Dtype,
    /// The CPU path that will compute, if that is known already.
    pub isa: Option<Isa>,
    /// Tokens that a request will have at most, if the caller limits them: what a model can only choose once, when it is loaded
    /// (`LongRoPE`'s factors), it chooses by this. [`Limits`] are not cut to it.
    pub max_len: Option<usize>,
    /// Where weights go as they are read, if a device shall compute the model.
    #[cfg(feature = "cuda")]
    pub upload: Option<koma_kernels::cuda::Upload>,
    /// How to get at models that are not folders on this machine.
    pub fetch: FetchOptions,
    /// Called now and then, from any thread.
    pub progress: Option<Arc<dyn Fn(LoadProgress) + Send + Sync>>,
}

impl LoadOptions {
    /// Whether a GPU shall compute the model.
    pub fn on_gpu(&self) -> bool {
        #[cfg(feature = "cuda")]
        let there = self.upload.is_some();
        #[cfg(not(feature = "cuda"))]
        let there = false;
        there
    }

    /// Tells how far it is, if anybody wants to know.
    pub(crate) fn report(&self, phase: Phase, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress(LoadProgress { phase, done, total });
        }
    }
}

/// Who a model is: in metrics, logs, reply headers and cache keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name it is served under.
    pub name: String,
    /// Architecture, as in config.json (`LlamaForCausalLM`).
    pub architecture: String,
    /// Format of most of its weights as computed with (`Q4_1`, `BF16`, `F32`).
    pub format: String,
    /// Parameters.
    pub parameters: u64,
    /// Hexadecimal sha256 over names, shapes, formats and contents of the weights (the first and last 4 KiB of each
    /// tensor's bytes as stored).
    pub weights_hash: String,
}

/// What bounds a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a request, prompt and output together.
    pub max_len: usize,
    /// Ids are below this.
    pub vocab: usize,
}

/// What chat templates and stopping need from the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatAssets {
    /// The template (Jinja), if there is one.
    pub template: Option<String>,
    /// Text of the begin-of-sequence token; empty if none.
    pub bos_token: String,
    /// Text of the end-of-sequence token; empty if none.
    pub eos_token: String,
    /// Ids that end a generation.
    pub eos_ids: Vec<u32>,
}

/// A model that generates.
pub trait Decoder: Send {
    /// What its layers keep of a request, group by group.
    fn cache_groups(&self) -> Vec<CacheGroup>;

    /// Computes `batch`, writes its keys, values and states into `cache`, leaves logits `[batch.logit_rows, vocab]` in
    /// `work.output`. Ids, positions and slots are in range: the engine checked them at admission.
    ///
    /// # Errors
    /// If the device failed; the step is then lost.
    fn forward(
        &self,
        cx: &Cx,
        batch: &Batch,
        cache: &mut KvCache,
        work: &mut Workspace,
    ) -> Result<(), Error>;
}

/// A model that reads whole sequences and gives one row per request.
pub trait Encoder: Send {
    /// Computes `batch` and leaves one raw row per request in `work.output`, but for those in `work.failed`.
    ///
    /// # Errors
    /// If nothing could be computed; the step is then lost.
    fn forward(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) -> Result<(), Error>;

    /// Its layers as data, if they can be told as that.
    fn spec(&self) -> Option<EncoderSpec> {
        None
    }
}

/// A model of either kind.
pub enum Model {
    /// Generates.
    Decoder(Box<dyn Decoder>),
    /// Pools.
    Encoder(Box<dyn Encoder>),
}

impl Model {
    /// What its layers keep of a request, group by group; none for an encoder.
    pub fn cache_groups(&self) -> Vec<CacheGroup> {
        match self {
            Self::Decoder(decoder) => decoder.cache_groups(),
            Self::Encoder(_) => Vec::new(),
        }
    }
}

/// What is known of a model before its weights are read ([`crate::outline`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// As [`Identity::architecture`].
    pub architecture: String,
    /// As [`Identity::format`].
    pub format: String,
    /// As [`Identity::parameters`].
    pub parameters: u64,
    /// As [`Loaded::limits`], but for limits that a tokenizer or pooling configuration sets.
    pub limits: Limits,
    /// As [`Model::cache_groups`].
    pub cache_groups: Vec<CacheGroup>,
    /// As [`Loaded::weight_bytes`].
    pub weight_bytes: usize,
}

/// A model of a folder as data, for who computes it by other means ([`crate::blueprint`]).
pub struct Blueprint {
    /// As [`Loaded::identity`].
    pub identity: Identity,
    /// As [`Loaded::limits`].
    pub limits: Limits,
    /// As [`Loaded::head`].
    pub head: Option<Head>,
    /// Its layers; none where no data tells them.
    pub spec: Option<EncoderSpec>,
    /// Its weights.
    pub tensors: Tensors,
    /// The id that config.json names for padding (`pad_token_id`); 0 if it names none.
    pub padding: u32,
    /// Where its files are.
    pub folder: PathBuf,
}

/// A loaded model and all facts about it.
pub struct Loaded {
    /// The layers.
    pub model: Model,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Who it is.
    pub identity: Identity,
    /// What bounds a request.
    pub limits: Limits,
    /// Templates and end ids (decoders).
    pub chat: ChatAssets,
    /// Meaning of the output rows (encoders).
    pub head: Option<Head>,
    /// Bytes that the weights take in memory.
    pub weight_bytes: usize,
    /// What computes it.
    pub device: Device,
}

impl Loaded {
    /// What was, or could have been, known before loading.
    pub fn outline(&self) -> Outline {
        Outline {
            architecture: self.identity.architecture.clone(),
            format: self.identity.format.clone(),
            parameters: self.identity.parameters,
            limits: self.limits,
            cache_groups: self.model.cache_groups(),
            weight_bytes: self.weight_bytes,
        }
    }
}
