"""`pieces`: SentencePiece and WordPiece vocabularies as GGUF files without tensors, with the ids of the reference libraries.

Byte pairs (`llama`) are trained and asked by `sentencepiece`; WordPiece (`bert`) is the tiny tokenizer of the encoders, asked by
`tokenizers`, with its vocabulary respelled as llama.cpp's converter does. The same vocabularies, and a unigram one, as `tokenizer.json` in the manner of Llama 2, Gemma
and XLM-RoBERTa, asked by `tokenizers`.
"""

import io

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from . import wordpiece
from .case import Case

SENTENCES = """the volume of the series is in stock and the order ships in two days
where is the third volume of the manga and when does it ship
please cancel the order 12345 and return the money to me
this is the best story in the shop and the next one is out in 2026
banana bananas aaaa aaaaa abababa
漫画の三巻はありますか
注文をキャンセルしてください
このまんがはおもしろいです
在庫はありますか、送料はいくらですか
返品したいです、返金はいつですか
本日の配送はありますか""".splitlines()
TEXTS = [
    "", " ", "a", "the order ships in two days", "  two  spaces and   three ", "Where is my order #42?", "aaaaaaaaaaa", "abababababab", "bananabanana",
    "漫画の三巻はありますか。", "注文 42 を\n\tキャンセル", "鬱 🙂 é", "🙂🙂", "\u2581kept", "e\u0301", "<0x41>", "ａ①", "\r\n",
    "the" * 50,
]
CONTROL, USER = "<|end|>", ["<tool>", "<tool>s"]
WHOLE = ["<s>", "<unk>", CONTROL, *USER]
# What is asked with tokens in it that are matched whole, split at them by hand.
PARTS = [
    ["<s>", "[INST] hi [/INST]"],
    ["a", "<unk>", "b"],
    ["a", CONTROL, "the order"],
    [CONTROL, CONTROL, " in"],
    ["the", "<tool>", " order", "<tool>s", "!"],
    ["<tool>", "漫画"],
]
# name -> options of the trainer. Without byte tokens neighbouring unknown characters are one token.
MODELS = {
    "llama": dict(add_dummy_prefix=True, byte_fallback=True, vocab_size=420),
    "llama_plain": dict(add_dummy_prefix=False, byte_fallback=True, vocab_size=420),
    "llama_equal": dict(add_dummy_prefix=True, byte_fallback=True, vocab_size=420),
    "llama_unknown": dict(add_dummy_prefix=True, byte_fallback=False, vocab_size=160),
}


def make(out):
    case = Case(out, "pieces", kind="tokenizers", sentencepiece=sentencepiece.__version__, files=[])
    for name, options in MODELS.items():
        case.info["files"].append({"file": f"{name}.gguf", **pairs(case.folder / f"{name}.gguf", options, equal=name == "llama_equal")})
    for name, lowercase in [("bert", True), ("bert_cased", False)]:
        case.info["files"].append({"file": f"{name}.gguf", **words(case.folder / f"{name}.gguf", lowercase)})
    for name, tokenizer in [("llama2", llama2()), ("gemma", gemma()), ("xlmr", unigram())]:
        tokenizer.save(str(case.folder / f"{name}.json"), pretty=False)
        case.info["files"].append({"file": f"{name}.json", "rows": [asked(tokenizer, text) for text in TEXTS]})
    case.write()


def asked(tokenizer, text):
    ids = tokenizer.encode(text).ids
    return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}


def pairs(path, options, equal):
    """Trains byte pairs, writes them and asks them. `equal`: all scores are one, so that only the place decides."""
    model = trained("bpe", **options)
    if equal:
        for piece in model.pieces:
            piece.score = -1.0
    unused = mark_unused(model) if options["byte_fallback"] else []
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    write(path, "llama", [p.piece for p in model.pieces], [p.type for p in model.pieces], lambda writer: (
        writer.add_token_scores([p.score for p in model.pieces]),
        writer.add_bos_token_id(1), writer.add_eos_token_id(2), writer.add_unk_token_id(0),
        writer.add_add_bos_token(True), writer.add_add_eos_token(False), writer.add_add_space_prefix(options["add_dummy_prefix"]),
    ))
    rows = [{"text": text, "ids": processor.encode(text), "decoded": processor.decode(processor.encode(text))} for text in TEXTS]
    # sentencepiece never reads a control token out of a text, and puts its space only before the first part: asked part by part.
    for parts in PARTS:
        ids = [[processor.piece_to_id(p)] if p in WHOLE else processor.encode(p) for p in parts]
        rows.append({"text": "".join(parts), "ids": sum(ids, []), "decoded": None})
    return {"begin": 1, "unused": unused, "rows": rows}


def trained(kind, byte_fallback, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3), model_writer=out, model_type=kind, normalization_rule_name="identity",
        remove_extra_whitespaces=False, control_symbols=[CONTROL], user_defined_symbols=USER, num_threads=1, hard_vocab_limit=False,
        character_coverage=1.0 if byte_fallback else 0.98, minloglevel=2, byte_fallback=byte_fallback, **options,
    )
    return proto.ModelProto.FromString(out.getvalue())


def byte_pairs(**options):
    """The library's byte pairs of a trained vocabulary: every way to make a piece of two is a merge, best score first."""
    model = trained("bpe", byte_fallback=True, vocab_size=420, **options)
    vocab = {p.piece: i for i, p in enumerate(model.pieces)}
    merges = []
    for piece in sorted((p for p in model.pieces if p.type == 1), key=lambda p: -p.score):
        text = piece.piece
        merges += [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in vocab and text[i:] in vocab]
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


def around(tokenizer, begin, end):
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", CONTROL])
    tokenizer.add_tokens(USER)
    special = [(t, tokenizer.token_to_id(t)) for t in (begin, end) if t]
    single = " ".join(f"{t}:0" for t in (begin, "$A", end) if t)
    pair = single + " " + " ".join(f"{t}:1" for t in (begin, "$B", end) if t)
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return tokenizer


def llama2():
    tokenizer = byte_pairs(add_dummy_prefix=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return around(tokenizer, "<s>", None)


def gemma():
    tokenizer = byte_pairs(add_dummy_prefix=False)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return around(tokenizer, "<s>", None)


def unigram():
    model = trained("unigram", byte_fallback=False, vocab_size=200)
    tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in model.pieces], unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    return around(tokenizer, "<s>", "</s>")


def mark_unused(model):
    """Forbids three pieces that longer ones are made of: they must fall apart again."""
    names = [p.piece for p in model.pieces if p.type == 1 and len(p.piece) >= 2]
    chosen = [n for n in names if sum(n in other for other in names) >= 3][:3]
    assert len(chosen) == 3, names
    for piece in model.pieces:
        if piece.piece in chosen:
            piece.type = 5
    return chosen


def words(path, lowercase):
    """The tiny WordPiece tokenizer."""
    tokenizer = wordpiece.build(lowercase)
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    if not lowercase:
        # What tells a cased vocabulary.
        tokens += ["Where", "##X"]
        tokenizer = cased(tokens)
    types = [3 if token in wordpiece.SPECIAL else 1 for token in tokens]
    spelled = [t if kind == 3 else t[2:] if t.startswith("##") else "\u2581" + t for t, kind in zip(tokens, types)]
    write(path, "bert", spelled, types, lambda writer: (
        writer.add_token_type_count(2), writer.add_bos_token_id(2), writer.add_eos_token_id(3), writer.add_sep_token_id(3),
        writer.add_unk_token_id(1), writer.add_pad_token_id(0), writer.add_mask_token_id(4),
    ))
    rows = []
    for text, pair in [(text, None) for text in wordpiece.TEXTS] + list(wordpiece.PAIRS):
        got = tokenizer.encode(text, pair) if pair is not None else tokenizer.encode(text)
        rows.append({"text": text, "pair": pair, "ids": got.ids, "type_ids": got.type_ids})
    return {"rows": rows}


def cased(tokens):
    tokenizer = wordpiece.build(False)
    tokenizer.model = models.WordPiece(vocab={t: i for i, t in enumerate(tokens)}, unk_token="[UNK]", max_input_chars_per_word=100)
    return tokenizer


def write(path, model, tokens, types, more):
    writer = gguf.GGUFWriter(str(path), "llama" if model == "llama" else "bert")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
