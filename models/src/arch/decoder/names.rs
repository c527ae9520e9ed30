//! How the tensors of decoders are spelled in files. The architectures call them as transformers does for a causal model.

/// With and without the prefix of the causal model, or inside of a model that sees pictures, too (in either order).
pub(super) fn folder(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if let Some(bare) = name.strip_prefix("model.") {
        names.push(bare.to_owned());
        names.push(format!("model.language_model.{bare}"));
    }
    names.push(format!("language_model.{name}"));
    names
}

/// The names that llama.cpp's converter gives.
pub(super) fn gguf(name: &str) -> Vec<String> {
    spelled(name, &[("post_attention_layernorm", "ffn_norm")])
}

/// The same for layers that have norms after attention and MLP, too.
pub(super) fn gguf_post_norms(name: &str) -> Vec<String> {
    let norms = [
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ];
    spelled(name, &norms)
}

fn spelled(name: &str, norms: &[(&str, &str)]) -> Vec<String> {
    const WHOLE: [(&str, &str); 3] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
    ];
    const PARTS: [(&str, &str); 16] = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        // The converter keeps a fused pair under the name of its second half.
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.gate", "ffn_gate_inp"),
        ("mlp.experts.gate_proj", "ffn_gate_exps"),
        ("mlp.experts.up_proj", "ffn_up_exps"),
        ("mlp.experts.down_proj", "ffn_down_exps"),
    ];
    let find = || {
        let (stem, end) = name.rsplit_once('.')?;
        if let Some((_, theirs)) = WHOLE.iter().find(|(ours, _)| *ours == stem) {
            return Some(format!("{theirs}.{end}"));
        }
        let (i, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
        // One expert's projection, in files from before they were stacked, goes by the name of the MLP's and its number.
        if let Some((expert, projection)) = one_expert(part) {
            let (_, theirs) = PARTS.iter().find(|(ours, _)| *ours == projection)?;
            return Some(format!("blk.{i}.{theirs}.{expert}.{end}"));
        }
        let mut parts = PARTS.iter().chain(norms);
        let (_, theirs) = parts.find(|(ours, _)| *ours == part)?;
        Some(format!("blk.{i}.{theirs}.{end}"))
    };
    vec![find().unwrap_or_else(|| name.to_owned())]
}

/// `mlp.experts.3.gate_proj` as 3 and `mlp.gate_proj`.
fn one_expert(part: &str) -> Option<(u32, String)> {
    let (expert, projection) = part.strip_prefix("mlp.experts.")?.split_once('.')?;
    Some((expert.parse().ok()?, format!("mlp.{projection}")))
}
