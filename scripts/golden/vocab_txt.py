"""`vocab_txt`, `vocab_txt_cased`: BERT folders as the first ones were published, with their words in `vocab.txt` and no `tokenizer.json`,
asked by AutoTokenizer. The first has no `tokenizer_config.json` either, the second no more in it than that case is kept.
"""

import json

from transformers import AutoTokenizer

from . import wordpiece
from .case import Case

CONFIGS = {"vocab_txt": None, "vocab_txt_cased": {"do_lower_case": False}}
# In the second vocabulary, as words and as their ends.
CASED = ["Where", "##X", "Please"]


def make(out, name):
    config = CONFIGS[name]
    case = Case(out, name, kind="tokenizers")
    # Not `model`: it has no weights.
    folder = case.folder / "files"
    folder.mkdir()
    words = list(wordpiece.vocabulary()) + (CASED if config else [])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": len(words)}), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    auto = AutoTokenizer.from_pretrained(folder)
    assert len(auto) == len(words), (len(auto), len(words))
    case.info["inputs"] = []
    for text, pair in [(text, None) for text in [*wordpiece.TEXTS, "WhereX is [MASK]it"]] + list(wordpiece.PAIRS):
        got = auto(text, pair)
        row = {"text": text, "pair": pair, "ids": got["input_ids"], "type_ids": got["token_type_ids"]}
        case.info["inputs"].append(row)
    case.write()
