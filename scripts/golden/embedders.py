"""Tiny random BERT and DistilBERT embedders as sentence-transformers folders, embedded by sentence-transformers."""

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from . import wordpiece
from .case import Case, fill, relative, save_again, write_json
from .encoders import BERT, DISTILBERT, EXACT, HIDDEN_OF, SCALES, run

# name -> pooling, whether a 2_Normalize follows, sentence_bert_config's limit or the tokenizer's; `current`: the
# folder is what today's sentence-transformers saves (its sentence_bert_config.json names no length).
VARIANTS = {
    "bert_embed_mean": dict(pooling="mean", normalize=True, max_seq_length=48, position_ids=True, switched_on=True),
    "bert_embed_cls": dict(pooling="cls", normalize=False, model_max_length=40),
    "bert_embed_max": dict(pooling="max", normalize=True, config=dict(layer_norm_eps=1e-5), lowercase=False, store=torch.float16),
    "bert_embed_last": dict(pooling="lasttoken", normalize=True, max_seq_length=32, store=torch.bfloat16),
    "distilbert_embed_mean": dict(pooling="mean", normalize=False, max_seq_length=50, distil=True, current=True),
}
OLD_NAMES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
WIDTH = BERT["hidden_size"]


def make(out, name):
    variant = VARIANTS[name]
    if variant.get("distil"):
        model_class, config = DistilBertModel, DistilBertConfig(**DISTILBERT)
    else:
        model_class, config = BertModel, BertConfig(**{**BERT, **variant.get("config", {})})
    seed = 200 + list(VARIANTS).index(name)
    case = Case(out, name, seed=seed, kind="embedder", architecture=model_class.__name__)
    model = fill(model_class(config), seed, matrix=0.35, scales=SCALES)
    write_folder(case.model, model, variant)
    case.info.update(pooling=variant["pooling"], normalize=variant["normalize"])
    answer(case, model_class, variant)
    case.write()


def write_folder(folder, model, variant):
    model.to(variant.get("store", torch.float32)).save_pretrained(folder)
    if variant.get("position_ids"):
        tensors = load_file(folder / "model.safetensors")
        tensors["embeddings.position_ids"] = torch.arange(model.config.max_position_embeddings)[None]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    wordpiece.write(
        folder,
        lowercase=variant.get("lowercase", True),
        model_max_length=variant.get("model_max_length", 512),
        tokenizer_class="DistilBertTokenizer" if variant.get("distil") else "BertTokenizer",
        switched_on=variant.get("switched_on", False),
    )
    if "max_seq_length" in variant:
        length = variant["max_seq_length"]
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    write_modules(folder, variant)
    if variant.get("current"):
        save_again(SentenceTransformer(str(folder), device="cpu"), folder)


def write_modules(folder, variant):
    """modules.json and 1_Pooling/config.json in the common older spelling."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * variant["normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    on = OLD_NAMES[variant["pooling"]]
    pooling = {"word_embedding_dimension": WIDTH, **{key: key == on for key in OLD_NAMES.values()}}
    write_json(folder / "1_Pooling" / "config.json", pooling)


def answer(case, model_class, variant):
    lowercase = variant.get("lowercase", True)
    rows = wordpiece.inputs(case.model, lowercase, wordpiece.TEXTS, [])
    embedder = SentenceTransformer(str(case.model), device="cpu", model_kwargs=EXACT)
    limit = variant.get("max_seq_length") or min(variant.get("model_max_length", 512), BERT["max_position_embeddings"])
    assert embedder.max_seq_length == limit, (case.name, embedder.max_seq_length, limit)

    def embed(text):
        return embedder.encode([text], batch_size=1, convert_to_tensor=True, show_progress_bar=False)[0]

    long = wordpiece.build(lowercase).encode(wordpiece.LONG_TEXT)
    assert len(long.ids) > 64, "the long text must pass every limit"
    cut = long.ids[: limit - 1] + long.ids[-1:]
    case.info.update(
        inputs=rows,
        limit=limit,
        too_long={"text": wordpiece.LONG_TEXT, "tokens": len(long.ids), "truncated_ids": cut},
        hidden_states_of=HIDDEN_OF,
    )
    case.add("embeddings", torch.stack([embed(row["text"]) for row in rows]))
    case.add("too_long", embed(wordpiece.LONG_TEXT))

    model = model_class.from_pretrained(case.model, **EXACT).eval()
    for i, value in enumerate(run(model, rows[HIDDEN_OF]).hidden_states):
        case.add(f"hidden.{i}", value[0])
    pooled = {how: by_hand(model, rows, how, variant["normalize"]) for how in OLD_NAMES}
    right = torch.from_numpy(case.tensors["embeddings"])
    assert relative(pooled.pop(variant["pooling"]), right) < 1e-5, f"{case.name}: not the pooling it says"
    cut_row = {"ids": cut, "type_ids": [0] * len(cut)}
    again = by_hand(model, [cut_row], variant["pooling"], variant["normalize"])[0]
    assert relative(again, torch.from_numpy(case.tensors["too_long"])) < 1e-5, f"{case.name}: not cut where it says"
    found = {f"{how} pooling": relative(value, right) for how, value in pooled.items()}
    flipped = by_hand(model, rows, variant["pooling"], not variant["normalize"])
    found["normalisation the other way"] = relative(flipped, right)
    assert min(found.values()) > 1e-2, (case.name, found)
    case.info["controls"] = {label: float(f"{value:.2g}") for label, value in found.items()}
    case.info["written_by"] = "sentence-transformers, texts one by one"


def by_hand(model, rows, how, normalize):
    """The same pooling written out, to prove which one the library used and what another one would give."""
    out = []
    for row in rows:
        hidden = run(model, row).last_hidden_state[0]
        pool = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0).values, "lasttoken": hidden[-1]}[how]
        out.append(torch.nn.functional.normalize(pool, dim=0) if normalize else pool)
    return torch.stack(out)
