//! [`LayeredDecoder`]: embedding, layers of attention and MLP with residuals and norms, final norm, head. What Llama made
//! common and its many relatives share; how they differ is data in here, not a type of its own.
//!
//! Invariant: each kind of attention is one cache group, in the order of the kinds; a layer finds its cache by the number
//! that it has in its kind.

use super::linear::Linear;
use super::mlp::Mlp;
use crate::{Batch, Decoder, Workspace};
use koma_kernels::{
    AttnMeta, AttnSpec, CacheGroup, Cx, Error, GroupKind, KvCache, PackedWeight, RopeTable, Rows,
    Then, embed, gather_rows, paged, rms_norm, rms_norm_add, rms_norm_heads, rope, rope_angles,
    scale_rows, soft_cap, write_kv,
};
use std::sync::Arc;

/// A decoder of like layers.
pub(crate) struct LayeredDecoder {
    /// `[vocab, hidden]`.
    pub(crate) embedding: Arc<PackedWeight>,
    /// Factor on what the embedding gives.
    pub(crate) embedding_scale: f32,
    /// The kinds of attention that its layers have; each is had by at least one.
    pub(crate) kinds: Vec<AttentionKind>,
    pub(crate) layers: Vec<DecoderLayer>,
    /// `[hidden]`.
    pub(crate) norm: Vec<f32>,
    /// `[vocab, hidden]`; the embedding itself where they are tied.
    pub(crate) head: Linear,
    /// Logits are bent so that none is beyond this.
    pub(crate) logit_cap: Option<f32>,
    /// Of all norms.
    pub(crate) eps: f32,
}

/// What layers that see the same tokens the same way have in common.
pub(crate) struct AttentionKind {
    pub(crate) spec: AttnSpec,
    pub(crate) rope: RopeTable,
}

/// One layer.
pub(crate) struct DecoderLayer {
    /// Which of the decoder's kinds it is of, and how many layers of that kind are before it.
    pub(crate) place: (usize, usize),
    pub(crate) attn_norm: Vec<f32>,
    /// Rows of q, k, v.
    pub(crate) qkv: Linear,
    /// Norms of each query and each key head, before rope.
    pub(crate) head_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) attn_out: Linear,
    /// Norm of attention's result, before it is added.
    pub(crate) attn_post_norm: Option<Vec<f32>>,
    pub(crate) mlp_norm: Vec<f32>,
    pub(crate) mlp: Mlp,
    /// Norm of the MLP's result, before it is added.
    pub(crate) mlp_post_norm: Option<Vec<f32>>,
}

impl Decoder for LayeredDecoder {
    fn cache_groups(&self) -> Vec<CacheGroup> {
        let group = |(number, kind): (usize, &AttentionKind)| CacheGroup {
            kind: match kind.spec.window {
                None => GroupKind::Full(kind.spec.layout),
                Some(window) => GroupKind::Sliding {
                    layout: kind.spec.layout,
                    window,
                },
            },
            layers: self.layers.iter().filter(|l| l.place.0 == number).count(),
        };
        self.kinds.iter().enumerate().map(group).collect()
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
        if self.embedding_scale != 1.0 {
            scale_rows(cx, &mut work.hidden, self.embedding_scale);
        }
        work.record();
        work.angles.resize_with(self.kinds.len(), Rows::new);
        for (kind, angles) in self.kinds.iter().zip(&mut work.angles) {
            rope_angles(cx, &batch.positions, &kind.rope, angles);
        }
        for layer in &self.layers {
            self.attend(cx, batch, layer, cache, work);
            self.transform(cx, layer, work);
            work.record();
        }
        let w = work;
        // [logit_rows, hidden]
        gather_rows(cx, &w.hidden, &batch.logit_rows, &mut w.attended);
        rms_norm(cx, &w.attended, &self.norm, self.eps, &mut w.normed);
        self.head
            .forward(cx, &w.normed, Then::Store, &mut w.side, &mut w.output);
        if let Some(cap) = self.logit_cap {
            soft_cap(cx, &mut w.output, cap);
        }
        Ok(())
    }
}

impl LayeredDecoder {
    /// The first half of a layer: adds attention to `work.hidden`.
    fn attend(
        &self,
        cx: &Cx,
        batch: &Batch,
        layer: &DecoderLayer,
        cache: &mut KvCache,
        work: &mut Workspace,
    ) {
        let (group, number) = layer.place;
        let AttentionKind { spec, rope: table } = &self.kinds[group];
        let (w, slots) = (work, &batch.groups[group]);
        let meta = AttnMeta {
            cu_seqlens: &batch.cu_seqlens,
            kv_lens: &batch.kv_lens,
            tables: &slots.tables,
        };
        let mut kv = cache.layer(group, number);
        rms_norm(cx, &w.hidden, &layer.attn_norm, self.eps, &mut w.normed);
        layer
            .qkv
            .forward(cx, &w.normed, Then::Store, &mut w.side, &mut w.qkv);
        if let Some((query, key)) = &layer.head_norms {
            rms_norm_heads(cx, &mut w.qkv, &spec.layout, (query, key), self.eps);
        }
        let angles = &w.angles[group];
        rope(cx, &mut w.qkv, &spec.layout, angles, table.interleaved);
        write_kv(cx, &w.qkv, &mut kv, &slots.slot_mapping);
        // What the product above read is not needed any more.
        paged(cx, &w.qkv, &kv, &meta, spec, &mut w.normed);
        let out = &layer.attn_out;
        match &layer.attn_post_norm {
            None => out.forward(cx, &w.normed, Then::Add, &mut w.side, &mut w.hidden),
            Some(norm) => {
                out.forward(cx, &w.normed, Then::Store, &mut w.side, &mut w.attended);
                rms_norm_add(cx, &w.attended, norm, self.eps, &mut w.hidden);
            }
        }
    }

    /// The second half of a layer: adds the MLP to `work.hidden`.
    fn transform(&self, cx: &Cx, layer: &DecoderLayer, work: &mut Workspace) {
        let w = &mut *work;
        rms_norm(cx, &w.hidden, &layer.mlp_norm, self.eps, &mut w.normed);
        match &layer.mlp_post_norm {
            None => layer.mlp.forward(cx, Then::Add, work),
            Some(norm) => {
                layer.mlp.forward(cx, Then::Store, work);
                rms_norm_add(cx, &work.attended, norm, self.eps, &mut work.hidden);
            }
        }
    }
}
