"""`turns`: how texts begin and turns end. Phi-3's kind of vocabulary, whose role markers swallow the space behind them, as a
`tokenizer.json` and as llama.cpp's converter writes it, asked by `tokenizers`; and the flags of `tokenizer_config.json` about
begin and end tokens, beside a `tokenizer.json` that has another opinion, asked by transformers.
"""

import json
import tempfile
from pathlib import Path

import gguf
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer

from . import bpe, pieces
from .case import Case

# As the published files have them: these three keep the space behind them.
KEEP = ["<unk>", "<s>", "<|endoftext|>"]
ROLES = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|user|>"]
TEXTS = [
    "<|user|>\nWhere is my order #42?<|end|>\n<|assistant|>\n",
    "<|system|>\nthe shop<|end|>\n<|user|>\n  cancel the order<|end|>\n<|assistant|>\nthe order<|end|>\n<|user|>\n\n\t漫画<|end|>\n<|assistant|>\n",
    "the <|end|> order <|user|> in\u3000<|user|>\u3000the",
    "</s>\n the order </s> the",
    "<s> the<s>\nthe",
    "<|endoftext|>\n the <|endoftext|> the",
    "<unk> the <unk>\n",
    "<|placeholder1|>   the",
    "the order ships in two days",
]
FLAGS = [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_eos_token": True}, {"add_bos_token": True, "add_eos_token": True}]
BEGIN = bpe.SPECIAL[1]


def make(out):
    case = Case(out, "turns", kind="tokenizers")
    tokenizer = phi(case.folder)
    rows = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    stripped = tokenizer.encode("<|user|>\nthe").ids
    assert stripped == tokenizer.encode("<|user|>the").ids, "the markers do not strip"
    case.info["phi3"] = rows
    case.info["flags"] = [row for begins in (False, True) for row in flags(case.folder, begins)]
    case.write()


def phi(folder):
    """Both files, and the tokenizer that was asked."""
    tokenizer = pieces.byte_pairs(add_dummy_prefix=True)
    llama = pieces.llama2()
    tokenizer.normalizer, tokenizer.decoder = llama.normalizer, llama.decoder
    model = pieces.trained("bpe", byte_fallback=True, vocab_size=420, add_dummy_prefix=True)
    texts, types = [p.piece for p in model.pieces], [p.type for p in model.pieces]
    scores = [p.score for p in model.pieces]
    # The published file has `</s>` as an added token that is not special.
    types[texts.index("</s>")] = 4
    added = [text for text, kind in zip(texts, types) if kind in (2, 3, 4)]
    for role in ROLES:
        texts.append(role)
        types.append(3)
        scores.append(-1000.0)
        added.append(role)
    tokenizer.add_tokens([token(text, types[texts.index(text)] != 4) for text in added])
    assert all(tokenizer.token_to_id(text) == i for i, text in enumerate(texts))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "phi3.json"), pretty=False)

    writer = gguf.GGUFWriter(str(folder / "phi3.gguf"), "phi3")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(texts.index("<|endoftext|>"))
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokenizer


def token(text, special):
    return AddedToken(text, special=special, normalized=False, rstrip=text not in KEEP)


def flags(folder, begins):
    """What AutoTokenizer makes of each pair of flags; `begins`: whether tokenizer.json adds a begin token."""
    rows = []
    tokenizer = bpe.tiny()
    if begins:
        both = f"{BEGIN}:0 $A:0 {BEGIN}:1 $B:1"
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN}:0 $A:0", pair=both, special_tokens=[(BEGIN, 1)])
    name = "begins.json" if begins else "plain.json"
    tokenizer.save(str(folder / name), pretty=False)
    for model in ["llama", "qwen2", "qwen3"]:
        for wanted in FLAGS:
            with tempfile.TemporaryDirectory() as temporary:
                beside = Path(temporary)
                bpe.write(beside, tokenizer, "jinja")
                (beside / "config.json").write_text(json.dumps({"model_type": model}), encoding="utf-8")
                config = json.loads((beside / "tokenizer_config.json").read_text(encoding="utf-8"))
                config.update(wanted, tokenizer_class="LlamaTokenizerFast")
                (beside / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
                ids = AutoTokenizer.from_pretrained(beside)("the order")["input_ids"]
            rows.append({"file": name, "model_type": model, "tokenizer_config": config, "text": "the order", "ids": ids})
    return rows
