//! Llama (Touvron et al., arXiv:2302.13971) and what is built like it, from a Hugging Face folder or a GGUF file.

mod config;

use crate::layers::gather;
use crate::layers::linear::{Linear, Parts};
use crate::registry::{Built, Checkpoint, collect_layers};
use crate::weights::Weights;
use crate::{Batch, Decoder, Limits, LoadError, Model, Workspace};
use config::Config;
use koma_kernels::{
    AttnMeta, AttnSpec, CacheGroup, Cx, Error, GroupKind, HeadLayout, KvCache, PackedWeight,
    RopeTable, Then, embed, paged, rms_norm, rope, rope_angles, write_kv,
};
use std::sync::Arc;

/// Frequencies that older versions saved, and a head that a tied checkpoint repeats.
const IGNORABLE: &[&str] = &["*rotary_emb.inv_freq"];
const IGNORABLE_IF_TIED: &[&str] = &["*rotary_emb.inv_freq", "lm_head.weight"];

/// A Llama.
struct Llama {
    /// `[vocab, hidden]`.
    embedding: Arc<PackedWeight>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `[vocab, hidden]`; the embedding itself where they are tied.
    head: Linear,
    rope: RopeTable,
    spec: AttnSpec,
    eps: f32,
}

struct Layer {
    attn_norm: Vec<f32>,
    qkv: Linear,
    attn_out: Linear,
    mlp_norm: Vec<f32>,
    /// Rows of the gate, then of the up projection.
    gate_up: Linear,
    down: Linear,
}

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let config = if let Some(meta) = &checkpoint.gguf {
        checkpoint.weights.spelled(gguf_spellings);
        let tied = !checkpoint.weights.has("lm_head.weight");
        Config::gguf(meta, tied)?
    } else {
        checkpoint.weights.spelled(folder_spellings);
        Config::folder(&checkpoint.folder()?.1)?
    };
    let weights = &checkpoint.weights;
    let mut rope = config
        .rope
        .table(config.layout.k_dim, checkpoint.gguf.is_some());
    if checkpoint.gguf.is_some() && weights.has(ROPE_FACTORS) {
        // Llama 3.1's scaling, written as one divisor for each frequency.
        let factors = weights.vector(ROPE_FACTORS, rope.inv_freq.len())?;
        rope.inv_freq
            .iter_mut()
            .zip(factors)
            .for_each(|(f, d)| *f /= d);
    }
    let embedding = weights.matrix("model.embed_tokens.weight", config.vocab, config.hidden)?;
    let embedding = Arc::new(embedding);
    let tied = config.tied && !has_another_head(weights)?;
    let model = Llama {
        layers: collect_layers(config.layers, |i| layer(weights, &config, i))?,
        norm: weights.vector("model.norm.weight", config.hidden)?,
        head: if tied {
            Linear::shared(Arc::clone(&embedding))
        } else {
            Linear::load_one(weights, "lm_head", (config.vocab, config.hidden), false)?
        },
        embedding,
        rope,
        spec: AttnSpec {
            layout: config.layout,
            scale: 1.0 / (config.layout.k_dim as f32).sqrt(),
            causal: true,
            window: None,
        },
        eps: config.eps,
    };
    Ok(Built {
        model: Model::Decoder(Box::new(model)),
        ignorable: if tied { IGNORABLE_IF_TIED } else { IGNORABLE },
        head: None,
        segments: None,
        limits: Limits {
            max_len: config.positions,
            vocab: config.vocab,
        },
    })
}

/// Whether a checkpoint that calls itself tied has a head all the same, with other values than the embedding; it is then
/// not tied (as in transformers 5).
fn has_another_head(weights: &Weights) -> Result<bool, LoadError> {
    const HEAD: &str = "lm_head.weight";
    let another = weights.has(HEAD) && !weights.same(HEAD, "model.embed_tokens.weight")?;
    if another {
        tracing::warn!(path = %weights.path().display(), "`tie_word_embeddings` is true, but `{HEAD}` is not the embedding: it is used as it is");
    }
    Ok(another)
}

fn layer(weights: &Weights, config: &Config, i: usize) -> Result<Layer, LoadError> {
    let HeadLayout {
        q_heads,
        kv_heads,
        k_dim,
        ..
    } = config.layout;
    let (q, kv) = (q_heads * k_dim, kv_heads * k_dim);
    let name = |part: &str| format!("model.layers.{i}.{part}");
    let stack = |outputs: &[(String, usize)], bias| {
        let cols = config.hidden;
        Linear::load(
            weights,
            &Parts {
                outputs,
                cols,
                bias,
            },
        )
    };
    let qkv = [
        (name("self_attn.q_proj"), q),
        (name("self_attn.k_proj"), kv),
        (name("self_attn.v_proj"), kv),
    ];
    let gate_up = ["gate_proj", "up_proj"].map(|p| (name(&format!("mlp.{p}")), config.inner));
    let out = (config.hidden, q);
    let down = (config.hidden, config.inner);
    Ok(Layer {
        attn_norm: weights.vector(&name("input_layernorm.weight"), config.hidden)?,
        qkv: stack(&qkv, config.attention_bias)?,
        attn_out: Linear::load_one(
            weights,
            &name("self_attn.o_proj"),
            out,
            config.attention_bias,
        )?,
        mlp_norm: weights.vector(&name("post_attention_layernorm.weight"), config.hidden)?,
        gate_up: stack(&gate_up, config.mlp_bias)?,
        down: Linear::load_one(weights, &name("mlp.down_proj"), down, config.mlp_bias)?,
    })
}

impl Decoder for Llama {
    fn cache_groups(&self) -> Vec<CacheGroup> {
        vec![CacheGroup {
            kind: GroupKind::Full(self.spec.layout),
            layers: self.layers.len(),
        }]
    }

    fn forward(
        &self,
        cx: &Cx,
        batch: &Batch,
        cache: &mut KvCache,
        work: &mut Workspace,
    ) -> Result<(), Error> {
        // [tokens, hidden]
        embed(cx, &batch.ids, &self.embedding, &mut work.hidden);
        work.record();
        rope_angles(cx, &batch.positions, &self.rope, &mut work.angles);
        for (i, layer) in self.layers.iter().enumerate() {
            self.attention(cx, batch, (layer, i), cache, work);
            let w = &mut *work;
            rms_norm(cx, &w.hidden, &layer.mlp_norm, self.eps, &mut w.normed);
            layer
                .gate_up
                .forward(cx, &w.normed, Then::SiluMul, &mut w.side, &mut w.inner);
            layer
                .down
                .forward(cx, &w.inner, Then::Add, &mut w.side, &mut w.hidden);
            work.record();
        }
        let w = work;
        // [logit_rows, hidden]
        gather(&w.hidden, batch.logit_rows.iter().copied(), &mut w.attended);
        rms_norm(cx, &w.attended, &self.norm, self.eps, &mut w.normed);
        self.head
            .forward(cx, &w.normed, Then::Store, &mut w.side, &mut w.output);
        Ok(())
    }
}

impl Llama {
    /// The first half of layer `i`: adds attention to `work.hidden`.
    fn attention(
        &self,
        cx: &Cx,
        batch: &Batch,
        (layer, i): (&Layer, usize),
        cache: &mut KvCache,
        work: &mut Workspace,
    ) {
        let (w, slots) = (work, &batch.groups[0]);
        let meta = AttnMeta {
            cu_seqlens: &batch.cu_seqlens,
            kv_lens: &batch.kv_lens,
            tables: &slots.tables,
        };
        let kv = cache.layer(0, i);
        rms_norm(cx, &w.hidden, &layer.attn_norm, self.eps, &mut w.normed);
        layer
            .qkv
            .forward(cx, &w.normed, Then::Store, &mut w.side, &mut w.qkv);
        rope(
            cx,
            &mut w.qkv,
            &self.spec.layout,
            &w.angles,
            self.rope.interleaved,
        );
        write_kv(cx, &w.qkv, kv, &slots.slot_mapping);
        paged(cx, &w.qkv, kv, &meta, &self.spec, &mut w.attended);
        layer
            .attn_out
            .forward(cx, &w.attended, Then::Add, &mut w.side, &mut w.hidden);
    }
}

const ROPE_FACTORS: &str = "rope_freqs.weight";

/// With and without the prefix of the causal model.
fn folder_spellings(name: &str) -> Vec<String> {
    let bare = name.strip_prefix("model.").map(str::to_owned);
    std::iter::once(name.to_owned()).chain(bare).collect()
}

/// The names that llama.cpp's converter gives.
fn gguf_spellings(name: &str) -> Vec<String> {
    const WHOLE: [(&str, &str); 3] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
    ];
    const PARTS: [(&str, &str); 9] = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let spelled = || {
        let (stem, end) = name.rsplit_once('.')?;
        if let Some((_, theirs)) = WHOLE.iter().find(|(ours, _)| *ours == stem) {
            return Some(format!("{theirs}.{end}"));
        }
        let (i, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
        let (_, theirs) = PARTS.iter().find(|(ours, _)| *ours == part)?;
        Some(format!("blk.{i}.{theirs}.{end}"))
    };
    vec![spelled().unwrap_or_else(|| name.to_owned())]
}
