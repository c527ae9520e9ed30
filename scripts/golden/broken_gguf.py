"""Small GGUF files, each wrong in one place: a plain writer in which every field can be set by hand."""

import struct
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from . import bpe, gguf_llama
from .case import fill

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
CONFIG = dict(
    vocab_size=260,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
)


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def strings(items):
    return struct.pack("<IQ", STRING, len(items)) + b"".join(map(string, items))


@dataclass
class Tensor:
    shape: list  # GGML order: fastest first
    data: bytes
    kind: int
    offset: int = 0


@dataclass
class Gguf:
    """The parts of a file; `write` lays them out without checking anything."""

    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    fields: dict = field(default_factory=dict)  # key -> (type, bytes)
    tensors: dict = field(default_factory=dict)
    extra_infos: list = field(default_factory=list)
    cut: int | None = None  # bytes to leave off the end

    def place(self):
        """Offsets one after the other, 32 aligned."""
        at = 0
        for tensor in self.tensors.values():
            tensor.offset, at = at, at + -(-len(tensor.data) // 32) * 32
        return self

    def write(self, path):
        infos = [*self.tensors.items(), *self.extra_infos]
        head = self.magic + struct.pack("<IQQ", self.version, self.tensor_count or len(infos), len(self.fields))
        for key, (kind, value) in self.fields.items():
            head += string(key) + struct.pack("<I", kind) + value
        for name, tensor in infos:
            head += string(name) + struct.pack("<I", len(tensor.shape))
            head += b"".join(struct.pack("<Q", n) for n in tensor.shape)
            head += struct.pack("<IQ", tensor.kind, tensor.offset)
        head += bytes(-len(head) % 32)
        body = b"".join(tensor.data + bytes(-len(tensor.data) % 32) for tensor in self.tensors.values())
        whole = head + body
        path.write_bytes(whole[: len(whole) - self.cut] if self.cut else whole)


def model():
    return fill(LlamaForCausalLM(LlamaConfig(**CONFIG)), seed=7, embedding=0.3)


def good():
    """A whole and right file: the start of every broken one, and the one that must load."""
    alphabet = sorted(bpe.pre_tokenizers.ByteLevel.alphabet())
    tokens = bpe.SPECIAL + alphabet
    scalar = lambda code, kind, value: (kind, struct.pack(code, value))
    number = lambda value: scalar("<I", U32, value)
    text = lambda value: (STRING, string(value))
    fields = {
        "general.architecture": text("llama"),
        "general.name": text("tiny"),
        "general.alignment": number(32),
        "llama.block_count": number(1),
        "llama.context_length": number(64),
        "llama.embedding_length": number(8),
        "llama.feed_forward_length": number(16),
        "llama.attention.head_count": number(2),
        "llama.attention.head_count_kv": number(1),
        "llama.attention.layer_norm_rms_epsilon": scalar("<f", F32, 1e-5),
        "llama.rope.freq_base": scalar("<f", F32, 10000.0),
        "llama.rope.dimension_count": number(4),
        "llama.vocab_size": number(len(tokens)),
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, strings(tokens)),
        "tokenizer.ggml.token_type": (ARRAY, struct.pack("<IQ", I32, 260) + struct.pack("<260i", *[3] * 4, *[1] * 256)),
        "tokenizer.ggml.merges": (ARRAY, strings([])),
        "tokenizer.ggml.bos_token_id": number(1),
        "tokenizer.ggml.eos_token_id": number(2),
        "tokenizer.ggml.add_bos_token": scalar("<?", BOOL, False),
        "tokenizer.chat_template": text(bpe.CHATML),
    }
    state, tensors = model().state_dict(), {}
    names = [f"blk.0.{part}.weight" for part in gguf_llama.LAYER]
    for name in ["token_embd.weight", *names, "output_norm.weight"]:
        value = state[gguf_llama.hf_name(name)].numpy()
        heads = {"attn_q": 2, "attn_k": 1}.get(name.split(".")[-2])
        value = gguf_llama.permute(value, heads) if heads else value
        half = value.ndim == 2
        data = np.ascontiguousarray(value, np.float16 if half else np.float32).tobytes()
        tensors[name] = Tensor(list(reversed(value.shape)), data, int(half))
    return Gguf(fields=fields, tensors=tensors).place()


def breakages():
    """(file name, what is wrong, substrings of which one must be in the message, Gguf)"""
    made = []

    def case(name, why, any_of, change):
        file = good()
        change(file)
        made.append((f"{name}.gguf", why, any_of, file))

    def put(key, kind, value):
        return lambda file: file.fields.update({key: (kind, value)})

    def tensor(name, **changes):
        return lambda file: [setattr(file.tensors[name], key, value) for key, value in changes.items()]

    number = lambda value: struct.pack("<I", value)
    q, k, up, last = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_up.weight", "output_norm.weight"

    case("g01", "the magic is GGML", ["magic"], lambda f: setattr(f, "magic", b"GGML"))
    case("g02", "version 1", ["version"], lambda f: setattr(f, "version", 1))
    case("g03", "version 99", ["version"], lambda f: setattr(f, "version", 99))
    case("g04", "2^60 tensors are announced", ["tensor"], lambda f: setattr(f, "tensor_count", 1 << 60))
    case("g05", "a string of 2^62 bytes", ["general.name"], put("general.name", STRING, struct.pack("<Q", 1 << 62)))
    case("g06", "an array of 2^61 strings", ["tokenizer.ggml.tokens"], put("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 1 << 61)))
    case("g07", "arrays in arrays, 2000 deep", ["general.nested"], put("general.nested", ARRAY, struct.pack("<IQ", ARRAY, 1) * 2000 + struct.pack("<IQ", U32, 0)))
    case("g08", "a metadata value of type 77", ["general.odd"], put("general.odd", 77, number(0)))
    case("g09", "cut in the middle of the metadata", ["g09.gguf"], lambda f: setattr(f, "cut", 9000))
    case("g10", "cut in the last tensor", [last], lambda f: setattr(f, "cut", 16))
    case("g11", "a tensor that begins past the end", [q], tensor(q, offset=1 << 40))
    case("g12", "an offset that overflows", [q], tensor(q, offset=(1 << 64) - 32))
    case("g13", "an offset that is not aligned", [q], lambda f: setattr(f.tensors[q], "offset", f.tensors[q].offset + 3))
    case("g14", "a tensor of the unknown type 99", [q], tensor(q, kind=99))
    case("g15", "rows of 8 in blocks of 32", [q], tensor(q, kind=2))
    case("g16", "2^40 x 2^40 elements", [q], tensor(q, shape=[1 << 40, 1 << 40]))
    case("g17", "nine dimensions", [q], tensor(q, shape=[1] * 9))
    case("g18", "no dimension that holds anything", [q], tensor(q, shape=[8, 0]))
    case("g19", "a tensor of the wrong shape", [k], tensor(k, shape=[4, 8]))
    case("g20", "a tensor is missing", [up], lambda f: (f.tensors.pop(up), f.place()))
    case("g21", "a tensor that nothing uses", ["blk.0.mystery.weight"], lambda f: (f.tensors.update({"blk.0.mystery.weight": Tensor([8], bytes(32), 0)}), f.place()))
    case("g22", "a tensor twice", [q], lambda f: f.extra_infos.append((q, f.tensors[q])))
    case("g23", "an unknown pre-tokenizer", ["moonbase-bpe"], put("tokenizer.ggml.pre", STRING, string("moonbase-bpe")))
    case("g24", "an unknown architecture", ["hyperformer"], put("general.architecture", STRING, string("hyperformer")))
    case("g25", "an unknown kind of tokenizer", ["runes"], put("tokenizer.ggml.model", STRING, string("runes")))
    case("g26", "no block count", ["llama.block_count"], lambda f: f.fields.pop("llama.block_count"))
    case("g27", "a width that is text", ["llama.embedding_length"], put("llama.embedding_length", STRING, string("eight")))
    case("g28", "8 is not a multiple of 3 heads", ["llama.attention.head_count", "llama.embedding_length"], put("llama.attention.head_count", U32, number(3)))
    case("g29", "no heads at all", ["llama.attention.head_count"], put("llama.attention.head_count", U32, number(0)))
    case("g30", "an end id outside the vocabulary", ["tokenizer.ggml.eos_token_id"], put("tokenizer.ggml.eos_token_id", U32, number(4000)))
    case("g31", "three token types for 260 tokens", ["tokenizer.ggml.token_type"], put("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ3i", I32, 3, 1, 1, 1)))
    case("g32", "a merge of pieces that are no tokens", ["tokenizer.ggml.merges"], put("tokenizer.ggml.merges", ARRAY, strings(["qq zz"])))
    case("g33", "an alignment of 0", ["general.alignment"], put("general.alignment", U32, number(0)))
    case("g34", "fewer tokens than embedding rows", ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "token_embd.weight"], put("tokenizer.ggml.tokens", ARRAY, strings(bpe.SPECIAL)))
    case("g35", "a layer more than there is", ["blk.1."], put("llama.block_count", U32, number(2)))
    case("g36", "an epsilon that is not a number", ["llama.attention.layer_norm_rms_epsilon"], put("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", float("nan"))))
    return made


def check_good(path):
    """The unbroken file is right: by the gguf package and gives finite logits."""
    loaded, _ = gguf_llama.read(path)
    logits = loaded(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(logits).all()
