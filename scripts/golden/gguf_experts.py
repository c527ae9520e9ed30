"""`gguf_experts`: Qwen3-MoE and Mixtral as llama.cpp's converter writes them: one tensor of all experts for each projection."""

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from . import blocks, bpe, decode, experts, gguf_llama, quants
from .case import Answers, Case, fill, relative

F32 = gguf.GGMLQuantizationType.F32
ATTENTION = {part: name for part, name in gguf_llama.LAYER.items() if part.startswith("attn") or part == "ffn_norm"}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
EXPERTS = {"ffn_gate_exps": (0, "gate_up_proj"), "ffn_up_exps": (1, "gate_up_proj"), "ffn_down_exps": (None, "down_proj")}
CONFIG = {**experts.BASE, "intermediate_size": 64}

# name -> GGUF's architecture, its model, what differs in the configuration, the type of its matrices, and of single ones.
FILES = {
    "qwen3moe": dict(
        model=(Qwen3MoeConfig, Qwen3MoeForCausalLM),
        config=dict(head_dim=24, num_experts=5, moe_intermediate_size=32, norm_topk_prob=True),
        kind="BF16",
        single={},
    ),
    "llama": dict(
        model=(MixtralConfig, MixtralForCausalLM),
        config=dict(num_local_experts=4, tie_word_embeddings=True),
        kind="Q8_0",
        # A mixture of types, as quantizers make them: the gate's is not that of the up projection.
        single={"ffn_gate_exps": "Q4_0", "ffn_down_exps": "Q4_1"},
    ),
}
# `gguf_experts_k`: blocks of 256, mixed as quantizers of small files do. Routers stay as they are.
K_FILES = {
    "qwen3moe": dict(
        model=(Qwen3MoeConfig, Qwen3MoeForCausalLM),
        config=dict(
            hidden_size=256,
            head_dim=32,
            num_experts=3,
            moe_intermediate_size=256,
            norm_topk_prob=True,
            tie_word_embeddings=True,
        ),
        kind="Q6_K",
        single={"attn_q": "Q4_K", "attn_k": "Q4_K", "attn_output": "Q5_0", "ffn_gate_exps": "Q2_K", "ffn_up_exps": "Q3_K"},
    ),
}
# `gguf_experts_apart`: as the first files had them, one tensor for each expert's projection (`blk.0.ffn_gate.3.weight`).
APART_FILES = {
    "llama": dict(
        model=(MixtralConfig, MixtralForCausalLM),
        config=dict(num_local_experts=3, tie_word_embeddings=True),
        kind="Q8_0",
        single={},
        apart=True,
    ),
}


def make(out, name="gguf_experts", files=FILES):
    case = Case(out, name, kind="gguf", files=[])
    for index, (arch, choice) in enumerate(files.items()):
        seeds = range(1000 * index, 1000 * index + 200)
        decode.first_seed(f"{name}, {arch}", lambda seed: attempt(case, arch, choice, seed), seeds)
    case.write()


def make_k(out):
    make(out, "gguf_experts_k", K_FILES)


def make_apart(out):
    make(out, "gguf_experts_apart", APART_FILES)


def attempt(case, arch, choice, seed):
    """One file; False when its greedy runs hold a near tie, between tokens or between experts."""
    Config, Model = choice["model"]
    config = Config(**{**CONFIG, **choice["config"]})
    path = case.folder / f"{arch}-experts.gguf"
    write(path, arch, choice, fill(Model(config), seed, embedding=0.3), seed)
    model = read(path, arch, Model(config))
    gap = experts.Gap(model)
    one = Answers(arch)
    asked = decode.prompts(bpe.VOCAB, seed)
    recorded = decode.record(one, model, asked)
    if gap.close() < experts.MIN_GAP or not recorded:
        return False
    case.add_all(arch, one)
    case.info["files"].append({
        "file": path.name,
        "arch": arch,
        "architecture": Model.__name__,
        "seed": seed,
        "type": choice["kind"],
        "stop_ids": [2],
        "min_gap": float(f"{gap.least:.2g}"),
        **one.info,
        "controls": controls(model, asked[2], one.tensors["logits.2"]),
    })
    return True


def parts(arch):
    return {**ATTENTION, **(QK_NORM if arch == "qwen3moe" else {})}


def write(path, arch, choice, model, seed):
    config, state = model.config, model.state_dict()
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"tiny random {arch} with experts")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    if arch == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    else:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    blocks.add_tokenizer(writer, bpe.tiny("gpt-2"), dict(pre="gpt-2", add_bos=False), choice["kind"])

    def add(name, value, kind):
        stored = value.numpy() if kind == F32 else quants.encode(name, value.numpy(), kind.name, rng)
        writer.add_tensor(name, np.ascontiguousarray(stored), raw_dtype=kind)

    def kind_of(part):
        return gguf.GGMLQuantizationType[choice["single"].get(part, choice["kind"])]

    kind = kind_of(None)
    add("token_embd.weight", state["model.embed_tokens.weight"], kind)
    add("output_norm.weight", state["model.norm.weight"], F32)
    if not config.tie_word_embeddings:
        add("output.weight", state["lm_head.weight"], kind)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        for part, name in parts(arch).items():
            value = state[f"{layer}{name}.weight"]
            heads = gguf_llama.heads_of(f".{part}.", config) if arch == "llama" else None
            value = torch.from_numpy(gguf_llama.permute(value.numpy(), heads)) if heads else value
            add(f"blk.{i}.{part}.weight", value, F32 if value.ndim == 1 else kind_of(part))
        # The router stays in f32, as in every file of llama.cpp's.
        add(f"blk.{i}.ffn_gate_inp.weight", state[f"{layer}mlp.gate.weight"], F32)
        for part, (half, name) in EXPERTS.items():
            value = state[f"{layer}mlp.experts.{name}"]
            value = value if half is None else value.chunk(2, dim=1)[half]
            if choice.get("apart"):
                for number, expert in enumerate(value):
                    add(f"blk.{i}.{part.removesuffix('_exps')}.{number}.weight", expert, kind_of(part))
            else:
                add(f"blk.{i}.{part}.weight", value, kind_of(part))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path, arch, model):
    """`model` in f32 on the dequantized weights of the file."""
    config = model.config
    values = {t.name: torch.from_numpy(np.array(dequantize(t.data, t.tensor_type), "f4")) for t in gguf.GGUFReader(path).tensors}
    state = {"model.embed_tokens.weight": values["token_embd.weight"], "model.norm.weight": values["output_norm.weight"]}
    state["lm_head.weight"] = values.get("output.weight", values["token_embd.weight"])
    for i in range(config.num_hidden_layers):
        layer, block = f"model.layers.{i}.", f"blk.{i}."
        for part, name in parts(arch).items():
            value = values[f"{block}{part}.weight"]
            heads = gguf_llama.heads_of(f".{part}.", config) if arch == "llama" else None
            state[f"{layer}{name}.weight"] = torch.from_numpy(gguf_llama.unpermute(value.numpy(), heads)) if heads else value
        state[f"{layer}mlp.gate.weight"] = values[f"{block}ffn_gate_inp.weight"]
        for part in EXPERTS:
            each = [f"{block}{part.removesuffix('_exps')}.{number}.weight" for number in range(config.num_local_experts)]
            if each[0] in values:
                values[f"{block}{part}.weight"] = torch.stack([values[name] for name in each])
        halves = [values[f"{block}{part}.weight"] for part in ("ffn_gate_exps", "ffn_up_exps")]
        state[f"{layer}mlp.experts.gate_up_proj"] = torch.cat(halves, dim=1)
        state[f"{layer}mlp.experts.down_proj"] = values[f"{block}ffn_down_exps.weight"]
    model.load_state_dict(state)
    return experts.eager(model.float())


def controls(model, ids, right):
    """The logits when each expert's gate and up projection change places."""
    state = model.state_dict()
    swapped = {k: torch.cat(v.chunk(2, dim=1)[::-1], dim=1) if k.endswith("gate_up_proj") else v for k, v in state.items()}
    wrong = type(model)(model.config)
    wrong.load_state_dict(swapped)
    gap = relative(decode.logits(experts.eager(wrong), ids)[-1], right)
    assert gap > 1e-2, gap
    return {"gate and up swapped": float(f"{gap:.2g}")}
