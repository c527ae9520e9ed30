"""`gguf_blocks`: one tiny Llama per GGML type as a GGUF file, with every tensor's dequantized bytes and the greedy text."""

import hashlib
import json

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from . import bpe, decode, gguf_llama
from .case import Answers, Case, fill, relative

CONFIG = dict(
    vocab_size=bpe.VOCAB,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)
# type -> the name of its pre-tokenizer, whether a begin token is added, whether the head is the embedding table.
FILES = {
    "F32": dict(pre="smollm", add_bos=False, tied=True),
    "F16": dict(pre="gpt-2", add_bos=True, tied=False),
    "BF16": dict(pre="smollm", add_bos=False, tied=False),
    "Q8_0": dict(pre="smollm", add_bos=False, tied=True),
    "Q4_0": dict(pre="smollm", add_bos=False, tied=False),
    "Q4_1": dict(pre="gpt-2", add_bos=False, tied=False),
}
# Tensors whose dequantized values are stored whole; the others by the sha256 of their little-endian f32 bytes.
WHOLE = ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"]
STRINGS = ["the order ships in 2 days", " volume 12345, please!", "漫画の三巻\r\n\tは？", "<|im_start|>user\nhi<|im_end|>\n", ""]


def make(out):
    case = Case(out, "gguf_blocks", kind="gguf", files=[])
    for index, (kind, choice) in enumerate(FILES.items()):
        choice = {**choice, "file": f"llama-{kind.lower()}.gguf", "kinds": kind}
        seeds = range(1000 * index, 1000 * index + 100)
        decode.first_seed(f"gguf_blocks, {kind}", lambda seed: attempt(case, kind, choice, seed), seeds)
    case.write()


def attempt(case, kind, choice, seed):
    """One file; False when its greedy runs hold a near tie."""
    path = case.folder / choice["file"]
    config = {**CONFIG, **choice.get("config", {})}
    source = fill(LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=choice["tied"])), seed, embedding=0.3)
    tokenizer = bpe.tiny(choice["pre"])
    fields = lambda writer: add_tokenizer(writer, tokenizer, choice, kind)
    if "encode" in choice:
        rng = np.random.default_rng(seed)
        gguf_llama.write(path, source, fields, choice["kinds"], lambda *a: choice["encode"](*a, rng))
        model, values = gguf_llama.read(path, choice["values_of"])
    else:
        gguf_llama.write(path, source, fields, choice["kinds"])
        model, values = gguf_llama.read(path)
    one = Answers(kind)
    asked = decode.prompts(bpe.VOCAB, seed)
    if not decode.record(one, model, asked):
        return False
    case.add_all(kind, one)
    for name in () if "encode" in choice else WHOLE:
        case.add(f"{kind}.{name}", values[name])
    case.info["files"].append({
        "file": path.name,
        "type": kind,
        **({"format": choice["format"]} if "format" in choice else {}),
        "seed": seed,
        **{key: choice[key] for key in ("pre", "add_bos", "tied")},
        "stop_ids": [2],
        **one.info,
        "sha256": {name: hashlib.sha256(np.ascontiguousarray(v, "<f4").tobytes()).hexdigest() for name, v in values.items()},
        "tokenizer": [{"text": text, "ids": tokenizer.encode(text).ids} for text in STRINGS],
        "controls": controls(model, asked[2], one.tensors["logits.2"]),
    })
    return True


def add_tokenizer(writer, tokenizer, choice, kind):
    state = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    token_types = [gguf.TokenType.CONTROL if token in bpe.SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    types = {"F32": "ALL_F32", "mixed": "MOSTLY_Q4_K_M", "MXFP4": "MOSTLY_MXFP4_MOE"}
    writer.add_file_type(gguf.LlamaFileType[types.get(kind, f"MOSTLY_{kind}")])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(choice["pre"])
    writer.add_token_list(tokens)
    writer.add_token_types(token_types)
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(choice["add_bos"])
    writer.add_add_space_prefix(False)
    writer.add_chat_template(bpe.CHATML)


def controls(model, ids, right):
    """The logits when q and k stay in the file's row order: what forgetting the permutation gives."""
    config, state = model.config, {}
    for name, value in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        state[name] = torch.from_numpy(gguf_llama.permute(value.numpy(), heads)) if heads else value
    wrong = LlamaForCausalLM(config)
    wrong.load_state_dict(state)
    gap = relative(decode.logits(wrong.eval(), ids)[-1], right)
    assert gap > 1e-2, gap
    return {"q and k rows not put back": float(f"{gap:.2g}")}
