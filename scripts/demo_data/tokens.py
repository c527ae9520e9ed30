"""One WordPiece vocabulary for both models: trained on train texts only, written as ordinary
Hugging Face tokenizer folders, and applied with MaxMatch dropout while training."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP = 0, 1, 2, 3
VOCAB_SIZE = 3600
MAX_WORD = 100


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A BERT WordPiece tokenizer. Kanji stand alone; accents stay, since removing them would
    also remove the voicing marks of kana."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=MAX_WORD))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    kana = [chr(c) for c in range(0x3041, 0x30FF) if c not in (0x3097, 0x3098)]
    ascii_ = [chr(c) for c in range(0x21, 0x7F) if not 0x41 <= c <= 0x5A]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB_SIZE, min_frequency=3, special_tokens=SPECIALS,
        initial_alphabet=kana + ascii_, limit_alphabet=2000, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _with_continuations(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _with_continuations(tokenizer: Tokenizer) -> Tokenizer:
    """Orders the vocabulary the same way in every run and adds the `##` form of every kana and
    ASCII letter, so that a word of known letters never becomes [UNK]."""
    names = [n for n, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    letters = [n for n in names if len(n) == 1 and (n.isascii() or "\u3041" <= n <= "\u30fe")]
    names += [f"##{n}" for n in letters if n.isalnum() or not n.isascii()]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    tokenizer.model = models.WordPiece(
        vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, class_name: str, max_length: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and vocab.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
             "sep_token": "[SEP]", "mask_token": "[MASK]"}
    config = {
        "added_tokens_decoder": {str(i): {"content": name, "lstrip": False, "normalized": False,
                                          "rstrip": False, "single_word": False, "special": True}
                                 for i, name in enumerate(SPECIALS)},
        "clean_up_tokenization_spaces": False, "do_lower_case": True, "strip_accents": False,
        "tokenize_chinese_chars": True, "model_max_length": max_length,
        "tokenizer_class": class_name, **names,
    }
    for name, value in (("tokenizer_config", config), ("special_tokens_map", names)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{name}\n" for name, _ in vocab), "utf-8")


class DropoutEncoder:
    """Greedy WordPiece in which each match is passed over with probability `p`, so that the
    model sees many ways to cut a word (MaxMatch-Dropout). With `p` 0 it equals the tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocab = tokenizer.get_vocab()
        self.longest = max(len(name) for name in self.vocab)
        self.words: dict[str, list[str]] = {}

    def ids(self, text: str, p: float, rng: random.Random) -> list[int]:
        """Token ids without special tokens."""
        if text not in self.words:
            normal = self.tokenizer.normalizer.normalize_str(text)
            cut = self.tokenizer.pre_tokenizer.pre_tokenize_str(normal)
            self.words[text] = [word for word, _ in cut]
        return [i for word in self.words[text] for i in self._word(word, p, rng)]

    def _word(self, word: str, p: float, rng: random.Random) -> list[int]:
        if len(word) > MAX_WORD:
            return [UNK]
        ids: list[int] = []
        start = 0
        while start < len(word):
            found = None
            for end in range(min(len(word), start + self.longest), start, -1):
                name = word[start:end] if start == 0 else "##" + word[start:end]
                id_ = self.vocab.get(name)
                if id_ is None:
                    continue
                found = (id_, end)
                if end == start + 1 or rng.random() >= p:
                    break
            if found is None:
                return [UNK]
            ids.append(found[0])
            start = found[1]
        return ids
