"""Tiny random Llama models as Hugging Face folders, one per spelling or feature."""

import copy

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from . import bpe, decode
from .case import Case, edit_json, fill, read_json, relative, write_json

BASE = dict(
    vocab_size=bpe.VOCAB,
    hidden_size=64,
    intermediate_size=112,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
    "truncate": False,
}

# name -> changes of the configuration, the type on disk, and the older spelling to write instead (None: current).
VARIANTS = {
    "llama": dict(config={}, store=torch.bfloat16, old=None),
    "llama_old": dict(
        config=dict(num_key_value_heads=4, tie_word_embeddings=True, num_hidden_layers=3),
        store=torch.float16,
        old=dict(rope_theta=10000.0, rope_scaling=None),
    ),
    "llama_head_dim": dict(
        config=dict(head_dim=24, attention_bias=True, mlp_bias=True, max_position_embeddings=256),
        store=torch.float32,
        old=None,
    ),
    "llama3_rope": dict(config=dict(rope_parameters=LLAMA3_ROPE), store=torch.bfloat16, old=None),
    "llama_linear_rope": dict(
        config=dict(rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5}),
        store=torch.bfloat16,
        old=dict(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.5}),
    ),
    "llama_yarn": dict(config=dict(rope_parameters=YARN), store=torch.bfloat16, old=None),
}


def make(out, name):
    decode.first_seed(name, lambda seed: attempt(out, name, seed))


def attempt(out, name, seed):
    variant = VARIANTS[name]
    case = Case(out, name, seed=seed, kind="decoder", architecture="LlamaForCausalLM")
    config = LlamaConfig(**copy.deepcopy({**BASE, **variant["config"]}))
    model = fill(LlamaForCausalLM(config), seed, embedding=0.3)
    write_folder(case, model, variant)
    # The reference reads the folder that is committed, in f32, so conversions and spellings are part of the proof.
    model = LlamaForCausalLM.from_pretrained(case.model, dtype=torch.float32, attn_implementation="eager").eval()
    if not decode.record(case, model, decode.prompts(bpe.VOCAB, seed)):
        return False
    case.info["stop_ids"] = [2, 0] if name == "llama" else [2]
    case.info["controls"] = controls(case, name, model)
    case.write()
    return True


def write_folder(case, model, variant):
    folder, old = case.model, variant["old"]
    model.to(variant["store"]).save_pretrained(folder, max_shard_size="120KB" if case.name == "llama_old" else "1GB")
    config, generation = folder / "config.json", folder / "generation_config.json"
    if old is not None:
        dtype = read_json(config)["dtype"]
        edit_json(config, drop=["dtype", "rope_parameters"], torch_dtype=dtype, transformers_version="4.30.0", **old)
    if case.name == "llama":
        edit_json(generation, eos_token_id=[2, 0])
    else:
        generation.unlink(missing_ok=True)
    if case.name == "llama_old":
        edit_json(config, drop=["head_dim", "attention_bias", "mlp_bias"])
        add_inv_freq(folder, model.config)
    bpe.write(folder, bpe.tiny(), "config" if case.name == "llama_old" else "jinja")


def add_inv_freq(folder, config):
    """Old Llama checkpoints carry the rope frequencies of each layer: a tensor that must be ignored by name."""
    index_path = folder / "model.safetensors.index.json"
    index = read_json(index_path)
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) >= 2, shards
    shard = load_file(folder / shards[-1])
    width = config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        shard[name] = 1.0 / 10000.0 ** (torch.arange(0, width, 2).float() / width)
        index["weight_map"][name] = shards[-1]
        index["metadata"]["total_size"] += shard[name].numel() * 4
    save_file(shard, folder / shards[-1], metadata={"format": "pt"})
    write_json(index_path, index)


def controls(case, name, model):
    """What a wrong reading of the folder would change, as a share of the logits: each far above the tolerance."""
    ids = case.info["prompts"][2]["ids"]
    right = torch.from_numpy(case.tensors["logits.2"])

    def with_config(**changes):
        other = LlamaForCausalLM(LlamaConfig(**copy.deepcopy({**BASE, **VARIANTS[name]["config"], **changes})))
        other.load_state_dict(model.state_dict(), strict=False)
        other.set_attn_implementation("eager")
        return float(f"{relative(decode.logits(other.eval(), ids)[-1], right):.2g}")

    assert with_config() < 1e-6, f"{name}: the reference did not read the written spelling"
    wrong = {}
    wrong["plain rope with another base"] = with_config(rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    wrong["another norm epsilon"] = with_config(rms_norm_eps=1e-2)
    if "rope_parameters" in VARIANTS[name]["config"]:
        theta = VARIANTS[name]["config"]["rope_parameters"]["rope_theta"]
        wrong["rope without its scaling"] = with_config(rope_parameters={"rope_type": "default", "rope_theta": theta})
    assert min(wrong.values()) > 1e-3, (name, wrong)
    return wrong
