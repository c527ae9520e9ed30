"""BERT embedders with all poolings side by side, Dense modules, and prompts, embedded by sentence-transformers."""

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel

from . import wordpiece
from .case import Case, fill, relative, save_again
from .encoders import BERT, EXACT, HIDDEN_OF, SCALES, run

ALL = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PROMPTS = {"query": "order: ", "passage": "the book. ", "empty": ""}
# name -> modes, widths and activations of Dense modules, Normalize, prompts and whether they are pooled
VARIANTS = {
    "bert_embed_concat": dict(modes=ALL, dense=[], normalize=False),
    "bert_embed_dense": dict(
        modes=("mean", "max"),
        dense=[(64, 24, torch.nn.Tanh(), True), (24, 16, torch.nn.Identity(), False), (16, 12, torch.nn.GELU(), True)],
        normalize=True,
    ),
    "bert_embed_prompts": dict(modes=("mean",), dense=[], normalize=True, prompts=PROMPTS, default="passage", include=False),
    "bert_embed_prompted": dict(modes=("weightedmean", "cls"), dense=[], normalize=True, prompts=PROMPTS, default=None, include=True),
}
DIMENSIONS = [1, 5]


def make(out, name):
    variant = VARIANTS[name]
    seed = 400 + list(VARIANTS).index(name)
    case = Case(out, name, seed=seed, kind="embedder", architecture="BertModel")
    model = fill(BertModel(BertConfig(**BERT)), seed, matrix=0.35, scales=SCALES)
    model.to(torch.bfloat16).save_pretrained(case.model)
    wordpiece.write(case.model, model_max_length=64)
    torch.manual_seed(seed)
    modules = [Transformer(str(case.model), model_kwargs=EXACT), Pooling(32, variant["modes"], variant.get("include", True))]
    for inputs, outputs, activation, bias in variant["dense"]:
        modules.append(Dense(inputs, outputs, bias=bias, activation_function=activation))
    modules += [Normalize()] * variant["normalize"]
    prompts = dict(prompts=variant.get("prompts"), default_prompt_name=variant.get("default"))
    save_again(SentenceTransformer(modules=modules, device="cpu", **prompts), case.model)
    answer(case, variant)
    case.write()


def answer(case, variant):
    embedder = SentenceTransformer(str(case.model), device="cpu", model_kwargs=EXACT)
    rows = wordpiece.inputs(case.model, True, wordpiece.TEXTS, [])

    def vector(text, **how):
        return embedder.encode([text], batch_size=1, convert_to_tensor=True, show_progress_bar=False, **how)[0]

    every = {"pooling": list(variant["modes"]), "normalize": variant["normalize"], "limit": 64, "hidden_states_of": HIDDEN_OF}
    case.info.update(inputs=rows, dimensions=DIMENSIONS, **every)
    case.add("embeddings", torch.stack([vector(row["text"], prompt="") for row in rows]))
    for size in DIMENSIONS:
        cut = [vector(row["text"], prompt="", truncate_dim=size, normalize_embeddings=variant["normalize"]) for row in rows]
        case.add(f"dimensions.{size}", torch.stack(cut))
    names = list(variant.get("prompts", {}))
    case.info["prompts"] = {"names": names, "default": variant.get("default"), "pooled": variant.get("include", True)}
    found = {}
    for prompt in names:
        case.add(f"prompt.{prompt}", torch.stack([vector(row["text"], prompt_name=prompt) for row in rows]))
        if PROMPTS[prompt]:
            found[f"without the prompt {prompt}"] = relative(case.tensors["embeddings"], case.tensors[f"prompt.{prompt}"])
            embedder.set_pooling_include_prompt(not variant["include"])
            other = torch.stack([vector(row["text"], prompt_name=prompt) for row in rows])
            embedder.set_pooling_include_prompt(variant["include"])
            found[f"prompt {prompt} pooled the other way"] = relative(other, case.tensors[f"prompt.{prompt}"])
    if names:
        default = torch.stack([vector(row["text"]) for row in rows])
        expected = case.tensors[f"prompt.{variant['default']}"] if variant["default"] else case.tensors["embeddings"]
        assert relative(default, expected) < 1e-6, case.name
    model = BertModel.from_pretrained(case.model, **EXACT).eval()
    for i, value in enumerate(run(model, rows[HIDDEN_OF]).hidden_states):
        case.add(f"hidden.{i}", value[0])
    assert all(value > 1e-2 for value in found.values()), (case.name, found)
    case.info["controls"] = {label: float(f"{value:.2g}") for label, value in found.items()}
