"""Tiny random decoders with experts as Hugging Face folders: Qwen3-MoE and Mixtral, in the spellings that there are."""

import copy

import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from . import bpe, decode
from .case import Case, edit_json, fill, read_json, relative

BASE = dict(
    vocab_size=bpe.VOCAB,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    num_experts_per_tok=2,
    bos_token_id=1,
    eos_token_id=2,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)
# A token whose last expert in and first expert out are nearer than this is no evidence; take another seed.
MIN_GAP = 5e-5

# name -> class, changes of the configuration, the type on disk, whether tensors are saved expert by expert (what transformers
# 5 writes unless told otherwise) or fused, and the older spelling of the configuration to write instead.
VARIANTS = {
    "qwen3_moe": dict(
        model=(Qwen3MoeConfig, Qwen3MoeForCausalLM),
        config=dict(
            head_dim=24, num_hidden_layers=3, num_experts=6, moe_intermediate_size=32, mlp_only_layers=[1], norm_topk_prob=True
        ),
        store=torch.bfloat16,
        apart=True,
        old=None,
    ),
    "qwen3_moe_fused": dict(
        model=(Qwen3MoeConfig, Qwen3MoeForCausalLM),
        config=dict(
            num_experts=6,
            num_hidden_layers=3,
            moe_intermediate_size=24,
            decoder_sparse_step=2,
            norm_topk_prob=False,
            tie_word_embeddings=True,
        ),
        store=torch.bfloat16,
        apart=False,
        old=dict(rope_theta=10000.0, rope_scaling=None, num_experts=6),
    ),
    "qwen3_moe_biases": dict(
        model=(Qwen3MoeConfig, Qwen3MoeForCausalLM),
        config=dict(num_experts=4, moe_intermediate_size=32, norm_topk_prob=True, attention_bias=True),
        store=torch.bfloat16,
        apart=True,
        old=None,
    ),
    "mixtral": dict(
        model=(MixtralConfig, MixtralForCausalLM),
        config=dict(num_local_experts=4, intermediate_size=64),
        store=torch.bfloat16,
        apart=True,
        old=None,
    ),
    "mixtral_window": dict(
        model=(MixtralConfig, MixtralForCausalLM),
        config=dict(num_local_experts=3, intermediate_size=32, sliding_window=12, tie_word_embeddings=True),
        store=torch.float16,
        apart=False,
        old=None,
    ),
    "qwen3_moe_window": dict(
        model=(Qwen3MoeConfig, Qwen3MoeForCausalLM),
        config=dict(
            num_experts=4,
            moe_intermediate_size=32,
            norm_topk_prob=True,
            use_sliding_window=True,
            sliding_window=12,
            tie_word_embeddings=True,
        ),
        store=torch.bfloat16,
        apart=True,
        old=None,
    ),
}


def make(out, name):
    decode.first_seed(name, lambda seed: attempt(out, name, seed))


def attempt(out, name, seed):
    variant = VARIANTS[name]
    Config, Model = variant["model"]
    case = Case(out, name, seed=seed, kind="decoder", architecture=Model.__name__)
    model = fill(Model(Config(**copy.deepcopy({**BASE, **variant["config"]}))), seed, embedding=0.3)
    write_folder(case.model, model, variant)
    # The reference reads the folder that is committed, in f32, so conversions and spellings are part of the proof.
    model = eager(Model.from_pretrained(case.model, dtype=torch.float32))
    gap = Gap(model)
    recorded = decode.record(case, model, decode.prompts(bpe.VOCAB, seed))
    if gap.close() < MIN_GAP or not recorded:
        return False
    case.info["stop_ids"] = [2]
    case.info["min_gap"] = float(f"{gap.least:.2g}")
    case.info["controls"] = controls(case, variant, model)
    case.write()
    return True


def eager(model):
    """The plainest computation of attention and of experts."""
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    return model.eval()


def write_folder(folder, model, variant):
    model.to(variant["store"]).save_pretrained(folder, save_original_format=variant["apart"])
    (folder / "generation_config.json").unlink(missing_ok=True)
    if variant["old"] is not None:
        config = folder / "config.json"
        dtype = read_json(config)["dtype"]
        drop = ["dtype", "rope_parameters", "num_local_experts", "mlp_only_layers"]
        edit_json(config, drop=drop, torch_dtype=dtype, transformers_version="4.51.0", **variant["old"])
    bpe.write(folder, bpe.tiny(), "jinja", 256)


class Gap:
    """Watches the routers: the least distance of a token's last expert in to its first expert out."""

    def __init__(self, model):
        self.least = 1.0
        routers = [m for m in model.modules() if type(m).__name__.endswith("TopKRouter")]
        assert routers
        self.hooks = [m.register_forward_hook(self.seen) for m in routers]

    def seen(self, router, _inputs, output):
        likely = torch.softmax(output[0].float(), dim=-1).sort(dim=-1, descending=True).values
        if router.top_k < likely.shape[-1]:
            self.least = min(self.least, float((likely[:, router.top_k - 1] - likely[:, router.top_k]).min()))

    def close(self):
        for hook in self.hooks:
            hook.remove()
        return self.least


def controls(case, variant, model):
    """What a wrong reading would change, as a share of the logits: each far above the tolerance."""
    ids = case.info["prompts"][2]["ids"]
    right = torch.from_numpy(case.tensors["logits.2"])
    Config, Model = variant["model"]

    def with_config(state=None, **changes):
        other = Model(Config(**copy.deepcopy({**BASE, **variant["config"], **changes})))
        other.load_state_dict(state or model.state_dict())
        return float(f"{relative(decode.logits(eager(other), ids)[-1], right):.2g}")

    assert with_config() < 1e-6, f"{case.name}: the reference did not read the written spelling"
    state = model.state_dict()
    swapped = {k: torch.cat(v.chunk(2, dim=1)[::-1], dim=1) if k.endswith("gate_up_proj") else v for k, v in state.items()}
    turned = {k: v.roll(1, 0) if k.endswith("experts.down_proj") else v for k, v in state.items()}
    wrong = {
        "one expert fewer": with_config(num_experts_per_tok=variant["config"].get("num_experts_per_tok", 2) - 1),
        "gate and up swapped": with_config(swapped),
        "another expert's down projection": with_config(turned),
    }
    if "norm_topk_prob" in variant["config"]:
        wrong["the other norm_topk_prob"] = with_config(norm_topk_prob=not variant["config"]["norm_topk_prob"])
    if "sliding_window" in variant["config"]:
        wrong["no window"] = with_config(sliding_window=None)
    assert min(wrong.values()) > 1e-2, (case.name, wrong)
    return wrong
