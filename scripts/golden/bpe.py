"""A tiny byte-level BPE tokenizer (320 tokens) for the tiny decoders, as tokenizer.json and as GGUF fields."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
VOCAB = 320
TEXT = """the volume of the series is in stock and the order ships in two days. where is the third volume of the manga?
please cancel the order 12345 and return the money. this is the best story in the shop, and the next one is out in 2026.
漫画の三巻はありますか。注文をキャンセルしてください。このまんがはおもしろいです。在庫はありますか。"""

# Chat templates in our own words: ChatML, and the same with a default system line.
CHATML = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def pre_tokenizer(pre):
    """What a GGUF's `tokenizer.ggml.pre` stands for."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "gpt-2":
        return byte_level
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    raise ValueError(f"no pre-tokenizer named {pre}")


def from_vocab(vocab, merges, special, pre):
    """The explicit reference tokenizer: vocabulary and merges as given, special tokens matched before anything else."""
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def tiny(pre="gpt-2"):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizer(pre)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator([TEXT], trainer)
    state = json.loads(trained.to_str())["model"]
    tokenizer = from_vocab(state["vocab"], [tuple(pair) for pair in state["merges"]], SPECIAL, pre)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def write(folder, tokenizer, template_in, model_max_length=512):
    """tokenizer.json and tokenizer_config.json; the chat template goes to `jinja` (own file) or `config`."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[3],
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
    }
    if template_in == "config":
        config["chat_template"] = CHATML
    else:
        (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
