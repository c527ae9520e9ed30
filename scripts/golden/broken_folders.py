"""Small Hugging Face folders, each wrong in one place."""

import json
import shutil
import struct

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from . import bpe, broken_gguf, wordpiece
from .case import edit_json, fill, read_json, write_json

BERT = dict(
    vocab_size=len(wordpiece.vocabulary()),
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=32,
)
Q = "model.layers.0.self_attn.q_proj.weight"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def base_llama(folder):
    broken_gguf.model().to(torch.float16).save_pretrained(folder)
    tokens = bpe.SPECIAL + sorted(bpe.pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(tokens)}
    bpe.write(folder, bpe.from_vocab(vocab, [], bpe.SPECIAL, "gpt-2"), "jinja", model_max_length=64)


def base_classifier(folder):
    config = BertConfig(**BERT, id2label={0: "no", 1: "yes"}, problem_type="single_label_classification")
    fill(BertForSequenceClassification(config), seed=8).to(torch.float16).save_pretrained(folder)
    wordpiece.write(folder)


def base_embedder(folder):
    fill(BertModel(BertConfig(**BERT)), seed=9).to(torch.float16).save_pretrained(folder)
    wordpiece.write(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    rows = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(kinds)]
    write_json(folder / "modules.json", rows)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})


BASES = {"llama": base_llama, "classifier": base_classifier, "embedder": base_embedder}


def split(folder):
    """(header, data) of the folder's safetensors file."""
    whole = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def join(folder, header, data, name=WEIGHTS):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)


def header(change):
    """A patch that changes the safetensors header; `change(header)` may return more bytes of data."""

    def patch(folder):
        parsed, data = split(folder)
        more = change(parsed)
        join(folder, parsed, data + (more or b""))

    return patch


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def config(**changes):
    return lambda folder: edit_json(folder / CONFIG, **changes)


def without(name):
    return lambda folder: (folder / name).unlink()


def missing_tensor(folder):
    """One tensor less, with the others moved together so that the file itself is right."""
    parsed, data = split(folder)
    parsed.pop(Q)
    kept, at = b"", 0
    for name, info in parsed.items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            kept += data[begin:end]
            info["data_offsets"] = [at, at + end - begin]
            at += end - begin
    join(folder, parsed, kept)


def extra_tensor(parsed):
    end = max(info["data_offsets"][1] for name, info in parsed.items() if name != "__metadata__")
    parsed["model.layers.0.mystery.weight"] = {"dtype": "F32", "shape": [2], "data_offsets": [end, end + 8]}
    return bytes(8)


def other_type(parsed):
    """Whole numbers where weights belong: the same bytes, read as 16-bit integers."""
    parsed[Q]["dtype"] = "I16"


def overlap(parsed):
    k = "model.layers.0.self_attn.k_proj.weight"
    parsed[k]["data_offsets"] = [parsed[Q]["data_offsets"][0], parsed[Q]["data_offsets"][0] + 64]


def shards(names):
    """An index that maps all tensors to `names[0]` but one, which is said to be in `names[1]`."""

    def patch(folder):
        parsed, _ = split(folder)
        (folder / WEIGHTS).rename(folder / names[0])
        tensors = [name for name in parsed if name != "__metadata__"]
        where = {name: names[1] if name == Q else names[0] for name in tensors}
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})

    return patch


def pickle_only(folder):
    (folder / WEIGHTS).unlink()
    # The first bytes of a pickle protocol 2 stream: never to be read.
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def slow_only(folder):
    (folder / TOKENIZER).unlink()
    edit_json(folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="mecab")


def big_vocabulary(folder):
    tokens = read_json(folder / TOKENIZER)
    tokens["model"]["vocab"]["toomuch"] = 5000
    write_json(folder / TOKENIZER, tokens)


def more_modules(folder):
    modules = read_json(folder / "modules.json")
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    write_json(folder / "modules.json", modules)


def pooling(**changes):
    return lambda folder: write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 8, **changes})


def code_folder(folder):
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text("raise SystemExit('this must never run')\n", encoding="utf-8")


# (folder, base, what is wrong, substrings of which one must be in the message, patch). No substrings: it must load.
TABLE = [
    ("ok1", "llama", "nothing", None, lambda folder: None),
    ("ok2", "classifier", "nothing; its code folder is ignored", None, code_folder),
    ("ok3", "embedder", "nothing", None, lambda folder: None),
    ("s01", "llama", "the weights are cut", [WEIGHTS], lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100])),
    ("s02", "llama", "a header longer than the file", [WEIGHTS], lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 40) + (f / WEIGHTS).read_bytes()[8:])),
    ("s03", "llama", "a header of 2^64-1 bytes", [WEIGHTS], lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 8 + (f / WEIGHTS).read_bytes()[8:])),
    ("s04", "llama", "a header that is no JSON", [WEIGHTS], lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 8) + b"not json")),
    ("s05", "llama", "an empty file", [WEIGHTS], replace(WEIGHTS, b"")),
    ("s06", "llama", "two tensors over each other", [WEIGHTS], header(overlap)),
    ("s07", "llama", "an unknown element type", [WEIGHTS], header(lambda h: h[Q].update(dtype="F99"))),
    ("s08", "llama", "a tensor of the wrong shape", [Q], header(lambda h: h[Q].update(shape=[4, 16]))),
    ("s09", "llama", "a shape whose size overflows", [Q, WEIGHTS], header(lambda h: h[Q].update(shape=[1 << 40, 1 << 40]))),
    ("s10", "llama", "a tensor is missing", [Q], missing_tensor),
    ("s11", "llama", "a tensor that nothing uses", ["model.layers.0.mystery.weight"], header(extra_tensor)),
    ("s12", "llama", "a weight of whole numbers", [Q], header(other_type)),
    ("s13", "llama", "the index names a file that is not there", ["part-2.safetensors"], shards(["part-1.safetensors", "part-2.safetensors"])),
    ("s14", "llama", "the index names a file outside the folder", ["../s01/model.safetensors"], shards(["part-1.safetensors", "../s01/model.safetensors"])),
    ("s15", "llama", "weights as a pickle only", ["pytorch_model.bin"], pickle_only),
    ("s16", "llama", "no weights at all", ["safetensors"], without(WEIGHTS)),
    ("c01", "llama", "a width that is text", ["hidden_size"], config(hidden_size="eight")),
    ("c02", "llama", "8 is not a multiple of 3 heads", ["num_attention_heads", "hidden_size"], config(num_attention_heads=3, head_dim=None)),
    ("c03", "llama", "2 heads cannot share 3", ["num_key_value_heads"], config(num_key_value_heads=3)),
    ("c04", "llama", "an unknown architecture", ["HyperFormerForCausalLM"], config(architectures=["HyperFormerForCausalLM"], model_type="hyperformer")),
    ("c05", "llama", "an unknown rope", ["spiral"], config(rope_parameters={"rope_type": "spiral", "rope_theta": 10000.0})),
    ("c06", "llama", "a rope without its factor", ["factor"], config(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0})),
    ("c07", "llama", "an unknown activation", ["swoosh"], config(hidden_act="swoosh")),
    ("c08", "llama", "a negative vocabulary", ["vocab_size"], config(vocab_size=-1)),
    ("c09", "llama", "a width of 2^62", ["hidden_size"], config(hidden_size=1 << 62, head_dim=None)),
    ("c10", "llama", "no heads at all", ["num_attention_heads"], config(num_attention_heads=0)),
    ("c11", "llama", "a configuration that is no JSON", [CONFIG], replace(CONFIG, b"{ \"hidden_size\": ")),
    ("c12", "llama", "no configuration", [CONFIG], without(CONFIG)),
    ("c13", "llama", "a list instead of the configuration", [CONFIG], replace(CONFIG, b"[1, 2]")),
    ("c14", "classifier", "three labels for two outputs", ["id2label", "classifier.weight"], config(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})),
    ("c15", "classifier", "an unknown problem type", ["problem_type"], config(problem_type="guessing")),
    ("t01", "classifier", "a slow tokenizer with MeCab only", [TOKENIZER, "BertJapaneseTokenizer"], slow_only),
    ("t02", "llama", "a tokenizer that is no JSON", [TOKENIZER], replace(TOKENIZER, b"{]")),
    ("t03", "classifier", "a token id past the embedding table", [TOKENIZER, "vocab_size"], big_vocabulary),
    ("e01", "embedder", "a module that is not known", ["Dense"], more_modules),
    ("e02", "embedder", "an unknown pooling", ["pooling_mode"], pooling(pooling_mode="oddly")),
    ("e03", "embedder", "no pooling switched on", ["pooling_mode"], pooling(pooling_mode_mean_tokens=False)),
    ("e04", "embedder", "a width that is not the model's", ["word_embedding_dimension"], lambda f: edit_json(f / "1_Pooling" / "config.json", word_embedding_dimension=16)),
    ("e05", "embedder", "the pooling folder is missing", ["1_Pooling"], lambda f: shutil.rmtree(f / "1_Pooling")),
]
