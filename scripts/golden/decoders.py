"""Tiny random decoders of the families beside Llama: Hugging Face folders, and GGUF files as llama.cpp's converter writes them."""

import copy
import json

import gguf
import numpy as np
import torch
import transformers
from gguf.quants import quantize

from . import bpe, decode, gguf_llama
from .case import Answers, Case, edit_json, fill, read_json, relative

# Windows are shorter than the longest prompt, heads are not hidden size over heads, and sizes differ from each other.
BASE = dict(
    vocab_size=bpe.VOCAB,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=3,
)
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
WINDOW = 13
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.6],
    "long_factor": [1.0, 2.0, 3.0, 5.0, 8.0, 13.0],
    "original_max_position_embeddings": 128,
}


def layers(*slides):
    return ["sliding_attention" if slide else "full_attention" for slide in slides]


# name -> family, changes of the configuration, type on disk, fields to write instead (`old`) or to leave out (`drop`),
# controls: what a wrong reading would change; `gguf`: also a GGUF file of it.
VARIANTS = {
    "mistral": dict(
        family="Mistral",
        config=dict(sliding_window=WINDOW, head_dim=16, rope_parameters=PLAIN),
        controls={"no window": dict(sliding_window=None), "a window longer by one": dict(sliding_window=WINDOW + 1)},
    ),
    "mistral_full": dict(
        family="Mistral",
        config=dict(sliding_window=None, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
        controls={"a window": dict(sliding_window=WINDOW)},
        gguf="mistral3",
    ),
    "qwen2": dict(
        family="Qwen2",
        config=dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True),
        old=dict(rope_theta=1e6, use_sliding_window=False, sliding_window=WINDOW, max_window_layers=1),
        drop=["rope_parameters", "layer_types"],
        controls={"a window": dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=0)},
        gguf="qwen2",
    ),
    # The window of config.json is the one before scaling, as the models' pages tell to write it; answers go beyond it.
    "qwen2_yarn": dict(
        family="Qwen2",
        config=dict(rope_parameters=YARN, max_position_embeddings=64),
        old=dict(
            rope_theta=10000.0,
            rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            use_sliding_window=False,
        ),
        drop=["rope_parameters", "layer_types"],
        controls={
            "without its scaling": dict(rope_parameters=PLAIN),
            "linear": dict(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
            "attention as it was": dict(rope_parameters={**YARN, "attention_factor": 1.0}),
        },
        gguf="qwen2",
    ),
    "qwen2_yarn_betas": dict(
        family="Qwen2",
        config=dict(rope_parameters={**YARN, "beta_fast": 16.0, "beta_slow": 4.0}, max_position_embeddings=64),
        controls={"the usual betas": dict(rope_parameters=YARN)},
        gguf="qwen2",
    ),
    "qwen2_window": dict(
        family="Qwen2",
        config=dict(
            rope_parameters=PLAIN, num_hidden_layers=3, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
        ),
        drop=["layer_types"],
        controls={"no window": dict(use_sliding_window=False, layer_types=None)},
    ),
    "qwen3": dict(
        family="Qwen3",
        config=dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6}, head_dim=20, tie_word_embeddings=True),
        controls={"another norm epsilon": dict(rms_norm_eps=1e-2)},
        gguf="qwen3",
    ),
    "gemma2": dict(
        family="Gemma2",
        config=dict(
            rope_parameters=PLAIN,
            num_hidden_layers=3,
            head_dim=20,
            query_pre_attn_scalar=11,
            sliding_window=WINDOW,
            attn_logit_softcapping=1.5,
            final_logit_softcapping=4.0,
            tie_word_embeddings=True,
        ),
        drop=["layer_types"],
        controls={
            "no cap on attention": dict(attn_logit_softcapping=None),
            "no cap on logits": dict(final_logit_softcapping=None),
            "no window": dict(sliding_window=512),
            "scaled by the head size": dict(query_pre_attn_scalar=20),
            "windows the other way round": dict(layer_types=layers(0, 1, 0)),
        },
        # A GGUF file cannot name the factor on attention: it is that of the head size.
        gguf="gemma2",
        gguf_config=dict(query_pre_attn_scalar=20),
    ),
    "gemma3": dict(
        family="Gemma3",
        config=dict(
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": PLAIN,
            },
            num_hidden_layers=4,
            head_dim=20,
            query_pre_attn_scalar=15,
            sliding_window=WINDOW,
            layer_types=layers(1, 1, 0, 1),
            final_logit_softcapping=None,
            attn_logit_softcapping=None,
            tie_word_embeddings=False,
        ),
        controls={
            "windows elsewhere": dict(layer_types=layers(1, 0, 1, 1)),
            "one rotation for all": dict(
                rope_parameters={"full_attention": PLAIN, "sliding_attention": PLAIN},
            ),
        },
    ),
    # The older spelling, the pattern of the released models, and the GGUF file.
    "gemma3_old": dict(
        family="Gemma3",
        config=dict(
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": PLAIN,
            },
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=7,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=20,
            query_pre_attn_scalar=20,
            sliding_window=WINDOW,
            tie_word_embeddings=True,
        ),
        old=dict(
            rope_theta=1e6,
            rope_local_base_freq=10000.0,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
            sliding_window_pattern=6,
        ),
        drop=["rope_parameters", "layer_types"],
        controls={"no window": dict(sliding_window=512)},
        gguf="gemma3",
    ),
    "phi3": dict(
        family="Phi3",
        config=dict(
            hidden_size=64,
            rope_parameters={**PLAIN, "partial_rotary_factor": 1.0},
            sliding_window=WINDOW,
            original_max_position_embeddings=512,
            rms_norm_eps=1e-5,
        ),
        controls={"no window": dict(sliding_window=None)},
        gguf="phi3",
    ),
    "phi3_longrope": dict(
        family="Phi3",
        config=dict(
            hidden_size=64,
            rope_parameters=LONGROPE,
            original_max_position_embeddings=128,
            tie_word_embeddings=True,
        ),
        controls={
            "without its scaling": dict(rope_parameters={**PLAIN, "partial_rotary_factor": 0.75}),
            "whole heads rotated": dict(
                rope_parameters={
                    **LONGROPE,
                    "partial_rotary_factor": 1.0,
                    "short_factor": LONGROPE["short_factor"] + [1.0, 1.0],
                    "long_factor": LONGROPE["long_factor"] + [1.0, 1.0],
                }
            ),
        },
        gguf="phi3",
    ),
    # Every prompt is longer than the first window, so that the reference takes the other factors for all of them.
    "phi3_longrope_long": dict(
        family="Phi3",
        config=dict(
            hidden_size=64,
            rope_parameters={**LONGROPE, "original_max_position_embeddings": 16},
            original_max_position_embeddings=16,
            tie_word_embeddings=True,
        ),
        lengths=(17, 25, 33),
        controls={
            "the short factors": dict(
                rope_parameters={**LONGROPE, "original_max_position_embeddings": 16, "long_factor": LONGROPE["short_factor"]}
            ),
        },
        gguf="phi3",
    ),
    # Biases, which released models have not, but configurations and files of `llama` can name.
    "llama_biases": dict(
        family="Llama",
        config=dict(rope_parameters=PLAIN, attention_bias=True, mlp_bias=True),
        controls={"no biases of attention": dict(attention_bias=False), "none of the MLP": dict(mlp_bias=False)},
        gguf="llama",
    ),
    "qwen3_biases": dict(
        family="Qwen3",
        config=dict(rope_parameters=PLAIN, head_dim=20, attention_bias=True),
        controls={"no biases": dict(attention_bias=False)},
    ),
    "gemma2_biases": dict(
        family="Gemma2",
        config=dict(rope_parameters=PLAIN, head_dim=20, query_pre_attn_scalar=20, sliding_window=WINDOW, attention_bias=True),
        controls={"no biases": dict(attention_bias=False)},
    ),
    "gemma3_biases": dict(
        family="Gemma3",
        config=dict(
            rope_parameters={"full_attention": PLAIN, "sliding_attention": PLAIN},
            head_dim=20,
            query_pre_attn_scalar=20,
            sliding_window=WINDOW,
            layer_types=layers(1, 0),
            attention_bias=True,
        ),
        controls={"no biases": dict(attention_bias=False)},
    ),
}
# A text model inside of one that sees pictures: what the released files leave out is left out, names are today's.
PICTURES = dict(
    hidden_size=40,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=20,
    query_pre_attn_scalar=20,
    sliding_window=WINDOW,
    layer_types=layers(1, 0),
    rope_parameters={
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": PLAIN,
    },
    tie_word_embeddings=True,
)
CLASSES = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM")}


def classes(family):
    config, model = CLASSES.get(family, (f"{family}Config", f"{family}ForCausalLM"))
    return getattr(transformers, config), getattr(transformers, model)


def make(out, name):
    decode.first_seed(name, lambda seed: attempt(out, name, seed))


def attempt(out, name, seed):
    variant = VARIANTS[name]
    config_class, model_class = classes(variant["family"])
    case = Case(out, name, seed=seed, kind="decoder", architecture=model_class.__name__)
    made = {**BASE, **variant["config"]}
    # Where the head is the embedding, layers must outweigh it, or each token is followed by itself.
    scale = dict(embedding=0.1, matrix=0.3) if made["tie_word_embeddings"] else dict(embedding=0.3)
    model = fill(model_class(config_class(**copy.deepcopy(made))), seed, **scale)
    if variant["family"].startswith("Gemma"):
        gemma(model)
    model.to(torch.bfloat16).save_pretrained(case.model)
    config = case.model / "config.json"
    edit_json(config, drop=variant.get("drop", []), **variant.get("old", {}))
    (case.model / "generation_config.json").unlink(missing_ok=True)
    bpe.write(case.model, bpe.tiny(), "jinja")
    model = model_class.from_pretrained(case.model, dtype=torch.float32, attn_implementation="eager").eval()
    lengths = variant.get("lengths", decode.LENGTHS)
    if not decode.record(case, model, decode.prompts(bpe.VOCAB, seed, lengths)):
        return False
    case.info["stop_ids"] = [2]
    case.info["controls"] = controls(case, variant, model)
    if "gguf" in variant and not add_gguf(case, variant, model):
        return False
    case.write()
    return True


def make_rope_freqs(out, name="gguf_rope_freqs"):
    """The model of `llama3_rope` as llama.cpp's converter writes it: its scaling is a tensor. The answers are those of the folder."""
    case = Case(out, name, kind="decoder", architecture="LlamaForCausalLM", answers="llama3_rope")
    model = transformers.LlamaForCausalLM.from_pretrained(out / "llama3_rope" / "model", dtype=torch.float32)
    write_gguf(case.folder / "model.gguf", "llama", model)
    case.write()


def make_pictures(out, name="gemma3_pictures"):
    decode.first_seed(name, lambda seed: attempt_pictures(out, name, seed))


def attempt_pictures(out, name, seed):
    case = Case(out, name, seed=seed, kind="decoder", architecture="Gemma3ForConditionalGeneration")
    vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28, patch_size=14)
    config = transformers.Gemma3Config(
        text_config=copy.deepcopy({**BASE, **PICTURES}), vision_config=vision, mm_tokens_per_image=4, eos_token_id=2
    )
    whole = fill(transformers.Gemma3ForConditionalGeneration(config), seed, embedding=0.1, matrix=0.3)
    gemma(whole.model.language_model)
    whole.to(torch.bfloat16).save_pretrained(case.model)
    text = read_json(case.model / "config.json")["text_config"]
    for field in ["num_attention_heads", "num_key_value_heads"]:
        text.pop(field)
    edit_json(case.model / "config.json", text_config=text)
    (case.model / "generation_config.json").unlink(missing_ok=True)
    bpe.write(case.model, bpe.tiny(), "jinja")
    whole = transformers.Gemma3ForConditionalGeneration.from_pretrained(
        case.model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    # The text model by itself, whose layers can be looked at; the whole must say the same.
    inside = transformers.Gemma3ForCausalLM(whole.config.text_config)
    inside.model.load_state_dict(whole.model.language_model.state_dict())
    inside.tie_weights()
    inside.set_attn_implementation("eager")
    inside.eval()
    asked = decode.prompts(bpe.VOCAB, seed)
    assert relative(decode.logits(inside, asked[2]), decode.logits(whole, asked[2])) < 1e-6
    if not decode.record(case, inside, asked):
        return False
    case.info["stop_ids"] = [2]
    case.write()
    return True


def gemma(model):
    """Gemma stores norms less one, and multiplies embeddings by the root of the hidden size."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data - 1.0
        elif "embed" in name:
            parameter.data = parameter.data / model.config.hidden_size**0.5


def controls(case, variant, model):
    """What a wrong reading of the folder would change, as a share of the logits: each far above the tolerance."""
    ids = case.info["prompts"][2]["ids"]
    right = torch.from_numpy(case.tensors["logits.2"])
    config_class, model_class = classes(variant["family"])

    def with_config(**changes):
        other = model_class(config_class(**copy.deepcopy({**BASE, **variant["config"], **changes})))
        other.load_state_dict(model.state_dict(), strict=False)
        other.set_attn_implementation("eager")
        return float(f"{relative(decode.logits(other.eval(), ids)[-1], right):.2g}")

    assert with_config() < 1e-6, f"{case.name}: the reference did not read the written spelling"
    wrong = {why: with_config(**changes) for why, changes in variant["controls"].items()}
    assert min(wrong.values()) > 1e-3, (case.name, wrong)
    return wrong


def add_gguf(case, variant, model):
    """Writes `model.gguf` beside the folder; its answers are those of the folder unless the format cannot say something."""
    changes = variant.get("gguf_config")
    if changes:
        config_class, model_class = classes(variant["family"])
        other = model_class(config_class(**copy.deepcopy({**BASE, **variant["config"], **changes})))
        other.load_state_dict(model.state_dict(), strict=False)
        other.set_attn_implementation("eager")
        model, apart = other.eval(), Answers(case.name)
        if not decode.record(apart, model, decode.prompts(bpe.VOCAB, case.info["seed"])):
            return False
        case.info["gguf"] = {key: apart.info[key] for key in ["prompts", "all_logits_of", "hidden_states_of"]}
        case.info["gguf"]["stop_ids"] = case.info["stop_ids"]
        case.add_all("gguf", apart)
    write_gguf(case.folder / "model.gguf", variant["gguf"], model)
    return True


def write_gguf(path, arch, model):
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny random model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    FIELDS[arch](writer, config)
    tokenizer(writer)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    for name, value in state.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = value.float().numpy()
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        heads = gguf_llama.heads_of(theirs, config)
        if heads and arch in ["mistral3", "llama"]:
            value = gguf_llama.permute(value, heads)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        # The matrices were rounded to bf16 for the folder, so this loses nothing.
        kind = gguf.GGMLQuantizationType.F32 if value.ndim == 1 else gguf.GGMLQuantizationType.BF16
        writer.add_tensor(theirs, np.ascontiguousarray(quantize(value, kind)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def mistral3(writer, config):
    qwen2(writer, config)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def llama(writer, config):
    mistral3(writer, config)
    rope = config.rope_parameters
    if rope["rope_type"] == "llama3":
        # What each frequency is divided by: that of long waves by the factor, that of short ones by 1, smoothly between.
        width = config.hidden_size // config.num_attention_heads
        turns = rope["original_max_position_embeddings"] / (2 * np.pi) / rope["rope_theta"] ** (np.arange(0, width, 2) / width)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        writer.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32))


def qwen2(writer, config):
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
            writer.add_rope_scaling_yarn_ext_factor(1.0)
            writer.add_rope_scaling_yarn_attn_factor(1.0)


def qwen3(writer, config):
    qwen2(writer, config)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def gemma2(writer, config):
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def gemma3(writer, config):
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_sliding_window(config.sliding_window)
    rope = config.rope_parameters["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(rope["factor"])


def phi3(writer, config):
    rope = config.rope_parameters
    width = config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(width * rope["partial_rotary_factor"]))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_sliding_window(config.sliding_window or 0)
    if rope["rope_type"] == "longrope":
        stretch = config.max_position_embeddings / config.original_max_position_embeddings
        factor = (1 + np.log(stretch) / np.log(config.original_max_position_embeddings)) ** 0.5
        writer.add_rope_scaling_attn_factors(float(factor))
        for which in ["long", "short"]:
            writer.add_tensor(f"rope_factors_{which}.weight", np.array(rope[f"{which}_factor"], np.float32))


FIELDS = dict(llama=llama, mistral3=mistral3, qwen2=qwen2, qwen3=qwen3, gemma2=gemma2, gemma3=gemma3, phi3=phi3)


def tokenizer(writer):
    """The tiny byte-level BPE vocabulary, whatever the family's own kind is."""
    model = json.loads(bpe.tiny().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in bpe.SPECIAL else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
