"""Tiny folders with quantized matrices: FP8, GPTQ, AWQ and compressed-tensors; Llama, and decoders with experts.

Matrices are rounded to the nearest code (how good the codes are is not what is tested), packed as the published formats say, and
dequantized in f32 as `scale * (code - zero)`. Where a library that reads the format is installed (compressed-tensors,
transformers' FP8), it must dequantize the written tensors to the same bits. The reference is transformers on those values.
"""

import copy
import hashlib

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from . import bpe, decode, experts
from .case import Case, edit_json, fill

BASE = dict(
    vocab_size=bpe.VOCAB,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)

# name -> classes, configuration, and for experts the names of their block and of each one's gate, up and down projection on disk.
MODELS = {
    "llama": dict(classes=(LlamaConfig, LlamaForCausalLM), config=BASE),
    "qwen2": dict(classes=(Qwen2Config, Qwen2ForCausalLM), config={**BASE, "rms_norm_eps": 1e-6}),
    "qwen3_moe": dict(
        classes=(Qwen3MoeConfig, Qwen3MoeForCausalLM),
        config={
            **experts.BASE,
            "num_experts": 4,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        },
        names=("mlp", ["gate_proj", "up_proj", "down_proj"]),
    ),
    "mixtral": dict(
        classes=(MixtralConfig, MixtralForCausalLM),
        config={**experts.BASE, "num_local_experts": 3, "intermediate_size": 64, "tie_word_embeddings": True},
        names=("block_sparse_moe", ["w1", "w3", "w2"]),
    ),
}

GPTQ = {"quant_method": "gptq", "bits": 4, "damp_percent": 0.01, "static_groups": False, "true_sequential": True}
AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True, "modules_to_not_convert": None}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}


def compressed(format, weights, inputs=None, **more):
    """quantization_config as llm-compressor writes it."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, "observer": "minmax", **weights}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "config_groups": {"group_0": group},
        **more,
    }


# What a calibration found for activations: one scale for all of them, in tensors beside each matrix.
CALIBRATED = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
PER_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}

# name -> quantization_config, the type on disk of everything else and of scales, changes of the model, and `key`: where the
# configuration is written.
VARIANTS = {
    "quant_gptq": dict(q={**GPTQ, "group_size": 32, "desc_act": False, "sym": True}),
    "quant_gptq_asym": dict(q={**GPTQ, "group_size": 64, "desc_act": False, "sym": False, "checkpoint_format": "gptq"}),
    "quant_gptq_v2_order": dict(q={**GPTQ, "group_size": 32, "desc_act": True, "sym": False, "checkpoint_format": "gptq_v2"}),
    "quant_gptq8": dict(q={**GPTQ, "bits": 8, "group_size": -1, "desc_act": False, "sym": False}),
    "quant_awq": dict(q={**AWQ, "group_size": 32}, config=dict(intermediate_size=160)),
    "quant_awq_128": dict(q={**AWQ, "group_size": 128}, config=dict(intermediate_size=256)),
    "quant_ct_int4": dict(
        q=compressed("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}), store=torch.bfloat16
    ),
    "quant_ct_int4_order": dict(
        q=compressed(
            "pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False, "actorder": "group"},
        ),
        key="compression_config",
    ),
    "quant_ct_int8": dict(
        q=compressed("int-quantized", {"strategy": "channel"}, PER_TOKEN), store=torch.bfloat16, scale=torch.float32
    ),
    "quant_ct_int8_asym": dict(q=compressed("int-quantized", {"strategy": "tensor", "symmetric": False}, PER_TOKEN)),
    "quant_ct_int8_packed": dict(q=compressed("pack-quantized", {"strategy": "channel", "symmetric": False})),
    "quant_ct_fp8": dict(
        q=compressed("float-quantized", {"type": "float", "strategy": "channel"}, {**PER_TOKEN, "type": "float"}),
        store=torch.bfloat16,
    ),
    "quant_ct_fp8_tensor": dict(
        q=compressed("float-quantized", {"type": "float", "strategy": "tensor"}, {**PER_TOKEN, "type": "float"}),
        scale=torch.float32,
    ),
    "quant_fp8": dict(
        q={**FP8, "fmt": "e4m3", "weight_block_size": [16, 32]}, store=torch.bfloat16, scale=torch.float32
    ),
    "quant_fp8_tensor": dict(q=FP8, store=torch.bfloat16, scale=torch.float32),
    # As published with scales for activations: by AutoFP8, by Mistral, by llm-compressor.
    "quant_fp8_static": dict(
        q={**FP8, "activation_scheme": "static", "ignored_layers": ["lm_head"]},
        store=torch.bfloat16,
        scale=torch.float32,
        names={"weight_scale_inv": "weight_scale"},
        activations={"input_scale": torch.tensor([0.02])},
    ),
    "quant_fp8_static_scalar": dict(
        q={**FP8, "activation_scheme": "static", "weight_block_size": None, "modules_to_not_convert": ["lm_head"]},
        store=torch.bfloat16,
        activations={"activation_scale": torch.tensor(0.02, dtype=torch.bfloat16)},
    ),
    "quant_ct_fp8_static": dict(
        q=compressed("float-quantized", {"type": "float", "strategy": "tensor"}, {**CALIBRATED, "type": "float"}),
        store=torch.bfloat16,
        activations={"input_scale": torch.tensor([0.02], dtype=torch.bfloat16)},
    ),
    "quant_ct_int8_static": dict(
        q=compressed("int-quantized", {"strategy": "channel"}, {**CALIBRATED, "symmetric": False}),
        store=torch.bfloat16,
        activations={
            "input_scale": torch.tensor([0.02], dtype=torch.bfloat16),
            "input_zero_point": torch.tensor([3], dtype=torch.int8),
        },
    ),
    # As Qwen2.5 is published: biases of q, k, v, and zeros for the layers that have none.
    "quant_gptq_biases": dict(
        q={**GPTQ, "group_size": 32, "desc_act": False, "sym": True}, model="qwen2", no_bias=["o_proj", "gate_proj", "up_proj", "down_proj"]
    ),
    # The order of columns differs from expert to expert, and from gate to up projection.
    "quant_experts_gptq": dict(q={**GPTQ, "group_size": 32, "desc_act": True, "sym": True}, model="qwen3_moe"),
    "quant_experts_awq": dict(q={**AWQ, "group_size": 32, "modules_to_not_convert": ["gate"]}, model="mixtral"),
    "quant_experts_fp8": dict(
        q={**FP8, "fmt": "e4m3", "weight_block_size": [16, 32]},
        model="qwen3_moe",
        config=dict(tie_word_embeddings=False),
        store=torch.bfloat16,
        scale=torch.float32,
    ),
}


def make(out, name):
    decode.first_seed(name, lambda seed: attempt(out, name, seed))


def attempt(out, name, seed):
    variant = VARIANTS[name]
    store = variant.get("store", torch.float16)
    kind = MODELS[variant.get("model", "llama")]
    Config, Model = kind["classes"]
    config = {**kind["config"], **variant.get("config", {})}
    case = Case(out, name, seed=seed, kind="decoder", architecture=Model.__name__)
    model = fill(Model(Config(**copy.deepcopy(config))), seed, embedding=0.3)
    model.to(store).save_pretrained(case.model)
    (case.model / "generation_config.json").unlink(missing_ok=True)
    rng = torch.Generator().manual_seed(seed)
    tensors, state, hashes = {}, {}, {}
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if ".layers." not in key or "norm" in key or key.endswith(("mlp.gate.weight", ".bias")):
            tensors[spelled(key, kind)], state[key] = value, value.float()
            continue
        wanted = []
        for name_on_disk, matrix in apart(key, value, kind):
            parts, values = quantize(variant, matrix.float(), rng)
            stem = name_on_disk.removesuffix(".weight")
            parts = {variant.get("names", {}).get(part, part): tensor for part, tensor in parts.items()}
            parts.update({part: tensor.clone() for part, tensor in variant.get("activations", {}).items()})
            if stem.rsplit(".", 1)[1] in variant.get("no_bias", []):
                parts["bias"] = torch.zeros(matrix.shape[0], dtype=store)
            tensors.update({f"{stem}.{part}": tensor.contiguous() for part, tensor in parts.items()})
            wanted.append(values)
            hashes[name_on_disk] = {
                "shape": list(values.shape),
                "sha256": hashlib.sha256(values.numpy().astype("<f4").tobytes()).hexdigest(),
            }
        state[key] = together(key, wanted)
    save_file(tensors, case.model / "model.safetensors", metadata={"format": "pt"})
    edit_json(case.model / "config.json", **{variant.get("key", "quantization_config"): variant["q"]})
    bpe.write(case.model, bpe.tiny(), "jinja")
    reference = Model(Config(**copy.deepcopy(config)))
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    reference.load_state_dict(state)
    reference.set_attn_implementation("eager")
    reference = reference.float().eval()
    gap = experts.Gap(experts.eager(reference)) if "names" in kind else None
    recorded = decode.record(case, reference, decode.prompts(bpe.VOCAB, seed))
    if not recorded or gap and gap.close() < experts.MIN_GAP:
        return False
    case.info["stop_ids"] = [2]
    if gap:
        case.info["min_gap"] = float(f"{gap.least:.2g}")
    case.info["matrices"] = hashes
    case.write()
    return True


def spelled(key, kind):
    """A name of transformers 5 as it is in files."""
    return key.replace(".mlp.", f".{kind['names'][0]}.") if "names" in kind else key


def apart(key, value, kind):
    """[(name in files, matrix)]: in files the projections of experts stand one by one."""
    if "experts" not in key:
        return [(spelled(key, kind), value)]
    block = spelled(key.rsplit(".", 1)[0], kind)
    gate, up, down = kind["names"][1]
    names = [gate, up] if key.endswith("gate_up_proj") else [down]
    matrices = []
    for i, expert in enumerate(value):
        matrices += [(f"{block}.{i}.{name}.weight", part) for name, part in zip(names, expert.chunk(len(names)))]
    return matrices


def together(key, values):
    """The inverse of `apart`."""
    if key.endswith("experts.gate_up_proj"):
        return torch.stack([torch.cat(values[i : i + 2]) for i in range(0, len(values), 2)])
    return torch.stack(values) if key.endswith("experts.down_proj") else values[0]


def quantize(variant, weight, rng):
    """({part of the name: tensor as the file has it}, f32 values)"""
    q, scale_type = variant["q"], variant.get("scale", variant.get("store", torch.float16))
    method = q["quant_method"]
    if method in ("gptq", "awq"):
        return gptq(q, weight, scale_type, rng)
    if method == "fp8":
        block = q.get("weight_block_size") or list(weight.shape)
        codes, scales, values = floats(weight, block, scale_type)
        # One scale is a scalar where there are no blocks.
        scales = scales if q.get("weight_block_size") else scales.reshape(())
        oracle = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
        assert torch.equal(oracle, values), "transformers dequantizes to other values"
        return {"weight": codes, "weight_scale_inv": scales}, values
    return compressed_tensors(q, weight, scale_type, rng)


def column_groups(cols, group, shuffled, rng):
    """The group of each column."""
    groups = torch.arange(cols) // group
    return groups[torch.argsort(torch.randperm(cols, generator=rng))] if shuffled else groups


def integers(weight, bits, groups, symmetric, scale_type, rng, lowest=0):
    """(codes from 0 [rows, cols], scales [rows, groups], zero points [rows, groups], values [rows, cols])"""
    count, top = int(groups.max()) + 1, 2**bits - 1
    rows = weight.shape[0]
    scales, zeros = torch.empty(rows, count), torch.full((rows, count), 2 ** (bits - 1))
    if not symmetric:
        # Away from zero, so that zero points differ.
        weight = weight + 0.1 * torch.randn((rows, count), generator=rng)[:, groups]
    for g in range(count):
        part = weight[:, groups == g]
        if symmetric:
            scales[:, g] = part.abs().amax(1) / (2 ** (bits - 1) - 1)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales[:, g] = (high - low) / top
            zeros[:, g] = (-low / scales[:, g]).round().clamp(lowest, top).int()
    scales = scales.to(scale_type)
    codes = (weight / scales.float()[:, groups]).round() + zeros[:, groups]
    codes = codes.clamp(0, top).int()
    values = scales.float()[:, groups] * (codes - zeros[:, groups]).float()
    return codes, scales, zeros.int(), values


def words(values, bits, places=None):
    """[n, m] integers, 32 / bits of them in an int32 along the last dimension; `places[i]`: which of them is at place i."""
    per = 32 // bits
    parts = values.numpy().astype(np.uint32).reshape(values.shape[0], -1, per)
    parts = parts if places is None else parts[:, :, places]
    shifts = np.arange(per, dtype=np.uint32) * bits
    return torch.from_numpy(np.bitwise_or.reduce(parts << shifts, axis=2).view(np.int32).copy())


def gptq(q, weight, scale_type, rng):
    rows, cols = weight.shape
    size = cols if q["group_size"] == -1 else q["group_size"]
    groups = column_groups(cols, size, q.get("desc_act"), rng)
    awq = q["quant_method"] == "awq"
    minus = 0 if awq or q.get("checkpoint_format") == "gptq_v2" else 1
    codes, scales, zeros, values = integers(weight, q["bits"], groups, q.get("sym", False), scale_type, rng, minus)
    if awq:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        parts = {"qweight": words(codes.T, 4, order), "qzeros": words(zeros.T, 4, order), "scales": scales.T}
        read = AutoAWQConverter(group_size=size)._convert_gemm_module(parts["qweight"], parts["scales"], parts["qzeros"])
        theirs, scale, zero = (part.float() for part in read)
        oracle = scale[:, groups] * (theirs - zero[:, groups])
        assert torch.equal(oracle, values), "compressed-tensors reads other values from AWQ"
    else:
        parts = {
            "qweight": words(codes, q["bits"]).T,
            "qzeros": words(zeros.T - minus, q["bits"]),
            "scales": scales.T,
            "g_idx": groups.int(),
        }
        if not q["sym"]:
            # What old versions of AutoGPTQ save for layers without a bias.
            parts["bias"] = torch.zeros(rows, dtype=scale_type)
    return parts, values


def floats(weight, block, scale_type):
    """(e4m3 codes, scales [rows / block, cols / block], values)"""
    rows, cols = weight.shape
    grid = [-(-rows // block[0]), -(-cols // block[1])]
    spread = torch.arange(rows) // block[0], torch.arange(cols) // block[1]
    scales = torch.zeros(grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            part = weight[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            scales[i, j] = part.abs().max() / 448
    scales = scales.to(scale_type)
    wide = scales.float()[spread[0]][:, spread[1]]
    codes = (weight / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, scales, codes.float() * wide


def compressed_tensors(q, weight, scale_type, rng):
    rows, cols = weight.shape
    group = q["config_groups"]["group_0"]
    args = group["weights"]
    per_tensor = args["strategy"] == "tensor"
    if args["type"] == "float":
        codes, scales, values = floats(weight, [rows if per_tensor else 1, cols], scale_type)
        scales = scales.reshape(1) if per_tensor else scales
        parts = {"weight": codes, "weight_scale": scales}
        check(q, parts, values, scales)
        return parts, values
    bits, half = args["num_bits"], 2 ** (args["num_bits"] - 1)
    groups = column_groups(cols, args.get("group_size", cols), args.get("actorder"), rng)
    shape = (1, -1) if per_tensor else (rows, cols)
    columns = torch.zeros(weight.numel(), dtype=torch.long) if per_tensor else groups
    codes, scales, zeros, values = integers(weight.reshape(shape), bits, columns, args["symmetric"], scale_type, rng)
    codes, values = codes.reshape(rows, cols), values.reshape(rows, cols)
    scales, zeros = (scales.reshape(1), zeros.reshape(1)) if per_tensor else (scales, zeros)
    parts = {"weight_scale": scales}
    if q["format"] == "pack-quantized":
        parts.update(weight_packed=words(codes, bits), weight_shape=torch.tensor([rows, cols]))
    else:
        parts["weight"] = (codes - half).to(torch.int8)
    if not args["symmetric"]:
        packed = q["format"] == "pack-quantized"
        parts["weight_zero_point"] = words(zeros.T, bits).T if packed else (zeros - half).to(torch.int8)
    if args.get("actorder"):
        # The library reads this no more; without the order it would give other values.
        parts["weight_g_idx"] = groups.int()
    else:
        check(q, parts, values, scales)
    return parts, values


def check(q, parts, values, scales):
    """The library's own dequantization, in f32, gives the same bits; in the type of the scales, the same but for that rounding."""
    group = q["config_groups"]["group_0"]
    scheme = QuantizationScheme(**{**group, "format": q["format"]})
    read = BaseCompressor.get_value_from_registry(q["format"]).decompress
    exact = read({**{k: v.clone() for k, v in parts.items()}, "weight_scale": scales.float()}, scheme)["weight"]
    assert torch.equal(exact, values), "compressed-tensors dequantizes to other values"
