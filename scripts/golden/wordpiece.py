"""A tiny WordPiece tokenizer with Latin letters, kana and some kanji, as the files of a BERT folder."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "the a is of my in and to for where order volume stock cancel please refund manga story new read best ship "
    "ship ##ping ##ed ##s ##ing return book shop"
).split()
HIRAGANA = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
DAKUTEN = "がでじぶだ"
KATAKANA = "アイウエオカキクケコサシスセソタチツテトナニマンメルキャーズラ"
KANJI = "漫画巻注文在庫返品送料金本日配送予約第一二三新刊店"
PUNCTUATION = ".,!?-'#()、。「」！？"

# What every encoder case is asked; the last single text is Japanese with words outside the vocabulary.
TEXTS = [
    "Where is my order?",
    "manga",
    "Please cancel the order #12, and refund my money!",
    "漫画の第3巻はありますか。",
    "返品したいです、送料はいくら？",
    "キャンセル please, 注文 42 は shipping?",
    "",
    "café naïve ßtraße 鬱 🙂 [MASK] ok",
]
PAIRS = [
    ("where is volume 3?", "第三巻は在庫あります。"),
    ("best manga", "the best new story of the shop, read in 2 days"),
    ("返品", "Returned books: please ship to the shop and the refund is in 3 days."),
    ("", "manga"),
]
LONG_TEXT = "please read the new manga story, the best of the shop! 漫画の新刊は本日配送。" * 6


def vocabulary():
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*SPECIAL, *letters, *("##" + c for c in letters), *"0123456789", *("##" + c for c in "0123456789")]
    pieces += [*PUNCTUATION, *KANJI]
    kana = HIRAGANA + DAKUTEN + "".join(dict.fromkeys(KATAKANA))
    pieces += [*kana, *("##" + c for c in kana), *WORDS]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


def build(lowercase=True):
    vocab = vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = ("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[cls, sep]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def write(folder, lowercase=True, model_max_length=512, tokenizer_class="BertTokenizer", switched_on=False):
    """Writes the tokenizer; with `switched_on`, its file truncates to 16 and pads to 24, which must have no effect."""
    tokenizer = build(lowercase)
    if switched_on:
        tokenizer.enable_truncation(max_length=16)
        tokenizer.enable_padding(length=24, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    vocab = build(lowercase).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")
    names = dict(unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]")
    config = {
        "tokenizer_class": tokenizer_class,
        "do_lower_case": lowercase,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "model_max_length": model_max_length,
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")


def inputs(folder, lowercase, texts, pairs):
    """[{text, pair, ids, type_ids}] from the explicit tokenizer, checked against AutoTokenizer on the written folder."""
    explicit, auto = build(lowercase), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text, pair in [(text, None) for text in texts] + list(pairs):
        got = explicit.encode(text, pair) if pair is not None else explicit.encode(text)
        again = auto(text, pair, padding=False, truncation=False)["input_ids"]
        assert again == got.ids, (str(folder), text, pair, got.tokens, auto.convert_ids_to_tokens(again))
        rows.append({"text": text, "pair": pair, "ids": got.ids, "type_ids": got.type_ids})
    return rows
