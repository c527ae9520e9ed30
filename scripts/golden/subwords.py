"""Tiny tokenizers of RoBERTa (byte-level BPE), XLM-RoBERTa (unigram) and ModernBERT (byte-level BPE), as the files of a folder."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from . import bpe, wordpiece

TEXT = [*wordpiece.TEXTS, *(t for pair in wordpiece.PAIRS for t in pair), *bpe.TEXT.splitlines(), wordpiece.LONG_TEXT]
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BRACKETS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
VOCAB = {"roberta": 340, "xlm_roberta": 220, "modernbert": 340}


def build(family):
    return {"roberta": roberta, "xlm_roberta": xlm_roberta, "modernbert": modernbert}[family]()


def byte_level(special, size):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(TEXT, trainer)
    state = json.loads(trained.to_str())["model"]
    return state["vocab"], [tuple(pair) for pair in state["merges"]]


def specials(tokens, mask):
    return [AddedToken(t, special=True, normalized=False, lstrip=t == mask) for t in tokens]


def roberta():
    vocab, merges = byte_level(FAIRSEQ, VOCAB["roberta"])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials(FAIRSEQ, "<mask>"))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return tokenizer


def xlm_roberta():
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCAB["xlm_roberta"] - 1, special_tokens=FAIRSEQ[:4], unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(TEXT, trainer)
    vocab = [(piece, float(score)) for piece, score in json.loads(trained.to_str())["model"]["vocab"]] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab=vocab, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = metaspace()
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(specials(FAIRSEQ, "<mask>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"], special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def metaspace():
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    return pre_tokenizers.Sequence(parts)


def modernbert():
    vocab, merges = byte_level(BRACKETS, VOCAB["modernbert"])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials(BRACKETS, "[MASK]"))
    ids = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    return tokenizer


def write(folder, family, model_max_length=64):
    tokenizer = build(family)
    assert tokenizer.get_vocab_size() <= VOCAB[family], (family, tokenizer.get_vocab_size())
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    if family == "modernbert":
        names = dict(zip(["unk_token", "cls_token", "sep_token", "pad_token", "mask_token"], BRACKETS, strict=True))
        names["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        keys = ["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"]
        names = {**dict(zip(keys, FAIRSEQ, strict=True)), "cls_token": "<s>", "sep_token": "</s>"}
        names["tokenizer_class"] = "RobertaTokenizer" if family == "roberta" else "XLMRobertaTokenizer"
    config = {**names, "model_max_length": model_max_length, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def inputs(folder, texts, pairs):
    """[{text, pair, ids, type_ids}] from tokenizer.json, checked against AutoTokenizer on the folder."""
    explicit, auto = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    explicit.no_truncation()
    explicit.no_padding()
    rows = []
    for text, pair in [(text, None) for text in texts] + list(pairs):
        got = explicit.encode(text, pair) if pair is not None else explicit.encode(text)
        again = auto(text, pair, padding=False, truncation=False)["input_ids"]
        assert again == got.ids, (str(folder), text, pair, got.tokens, auto.convert_ids_to_tokens(again))
        rows.append({"text": text, "pair": pair, "ids": got.ids, "type_ids": got.type_ids})
    return rows
