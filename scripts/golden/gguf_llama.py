"""Llama in GGUF: writing tiny files the way llama.cpp's converter does, and reading any of them back into transformers."""

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name):
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER[parts[2]]}.{parts[3]}"
    return f"{OUTER[parts[0]]}.{parts[1]}"


def permute(rows, heads):
    """Rows of q or k from transformers' order (two halves per head) to llama.cpp's (pairs side by side)."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, 2, width // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows, heads):
    width = rows.shape[0] // heads
    return rows.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def heads_of(name, config):
    """How many heads the rows of a rotated matrix belong to; None for one that is not rotated."""
    if ".attn_q." in name:
        return config.num_attention_heads
    if ".attn_k." in name:
        return config.num_key_value_heads
    return None


def write(path, model, fields, kinds, encode=lambda name, value, kind: quantize(value, gguf.GGMLQuantizationType[kind])):
    """Writes `model` with norms in f32 and matrices of the GGML type `kinds`, or of the type that it names for each;
    `fields(writer)` adds tokenizer fields, `encode(name, value, kind)` gives the stored form."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny random llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    fields(writer)
    state = model.state_dict()
    names = ["token_embd.weight", "output_norm.weight"]
    names += [f"blk.{i}.{part}.weight" for i in range(config.num_hidden_layers) for part in LAYER]
    if not config.tie_word_embeddings:
        names.append("output.weight")
    for name in names:
        value = state[hf_name(name)].float().numpy()
        heads = heads_of(name, config)
        value = permute(value, heads) if heads else value
        kind = "F32" if value.ndim == 1 else kinds if isinstance(kinds, str) else kinds[name.removesuffix(".weight")]
        stored = value if kind == "F32" else encode(name, value, kind)
        writer.add_tensor(name, np.ascontiguousarray(stored), raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def config_of(reader):
    """LlamaConfig from the metadata of an opened GGUF."""
    field = {key[6:]: value.contents() for key, value in reader.fields.items() if key.startswith("llama.")}
    tensors = {tensor.name for tensor in reader.tensors}
    return LlamaConfig(
        vocab_size=field["vocab_size"],
        hidden_size=field["embedding_length"],
        intermediate_size=field["feed_forward_length"],
        num_hidden_layers=field["block_count"],
        num_attention_heads=field["attention.head_count"],
        num_key_value_heads=field["attention.head_count_kv"],
        max_position_embeddings=field["context_length"],
        head_dim=field.get("attention.key_length", field["embedding_length"] // field["attention.head_count"]),
        rms_norm_eps=field["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": field["rope.freq_base"]},
        tie_word_embeddings="output.weight" not in tensors,
    )


def read(path, dequantize=dequantize):
    """(model in f32 on the dequantized weights, {tensor name: f32 array as gguf dequantizes it, in the file's row order})"""
    reader = gguf.GGUFReader(path)
    config = config_of(reader)
    values = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    state = {}
    for name, value in values.items():
        heads = heads_of(name, config)
        value = unpermute(value, heads) if heads else value
        state[hf_name(name)] = torch.from_numpy(np.array(value, dtype=np.float32))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    model.set_attn_implementation("eager")
    return model.float().eval(), values
