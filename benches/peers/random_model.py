"""A Hugging Face folder of a known shape with seeded random weights: random_model.py SHAPE TOKENIZER_FOLDER OUT.

Speed does not depend on the values, so a model whose weights do not fit the processor's cache needs no download. The
vocabulary has the shape's own size: a byte-level tokenizer with more tokens is cut to its first ones, and one with fewer
leaves ids that no text gives.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers import Qwen2Config, Qwen2ForCausalLM

SEED = 20
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}

SHAPES: dict[str, tuple[type[PreTrainedModel], PretrainedConfig]] = {
    # Qwen2.5-0.5B: 494 M parameters, head tied to the embedding, biases on q, k and v.
    "qwen2.5-0.5b": (
        Qwen2ForCausalLM,
        Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
            tie_word_embeddings=True,
            **TOKENS,
        ),
    ),
    # TinyLlama-1.1B: 1100 M parameters, a head of its own.
    "tinyllama-1.1b": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=32000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            rope_theta=1e4,
            tie_word_embeddings=False,
            **TOKENS,
        ),
    ),
}


def main(shape: str, tokenizer: Path, out: Path) -> None:
    torch.manual_seed(SEED)
    kind, config = SHAPES[shape]
    torch.set_default_dtype(torch.bfloat16)
    kind(config).save_pretrained(out)
    (out / "tokenizer.json").write_text(cut((tokenizer / "tokenizer.json").read_text(), config.vocab_size))
    # No class of a family: those add tokens of their own, for which a vocabulary of this size has no room.
    ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}  # TOKENS above
    PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), **ends).save_pretrained(out)


def cut(text: str, size: int) -> str:
    """A tokenizer.json with the first `size` tokens of its own, and the merges that make them."""
    all = json.loads(text)
    model = all["model"]
    kept = {token: id for token, id in model["vocab"].items() if id < size}
    model["vocab"] = kept
    all["added_tokens"] = [token for token in all["added_tokens"] if kept.get(token["content"]) == token["id"]]
    model["merges"] = [m for m in model["merges"] if "".join(m) in kept and m[0] in kept and m[1] in kept]
    return json.dumps(all, ensure_ascii=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
