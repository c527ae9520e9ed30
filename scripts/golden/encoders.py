"""Tiny random BERT and DistilBERT classifiers and cross-encoders as Hugging Face folders."""

import copy

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    TextClassificationPipeline,
)

from . import wordpiece
from .case import Case, edit_json, fill, relative, save_again
from .quantized import PER_TOKEN, compressed, quantize

BERT = dict(
    vocab_size=len(wordpiece.vocabulary()),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    type_vocab_size=2,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    pad_token_id=0,
)
DISTILBERT = dict(
    vocab_size=BERT["vocab_size"],
    dim=32,
    hidden_dim=64,
    n_layers=2,
    n_heads=4,
    max_position_embeddings=64,
    activation="gelu",
    sinusoidal_pos_embds=False,
    pad_token_id=0,
)

SINGLE, MULTI, VALUE = "single_label_classification", "multi_label_classification", "regression"
SIGMOID = {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.1.0"}

# name -> base model, labels, problem type and what is special. `write` goes into config.json as it is.
VARIANTS = {
    "bert_classify": dict(
        base="bert", labels=["在庫確認", "shipping", "返品"], problem=SINGLE, switched_on=True, position_ids=True
    ),
    "bert_multilabel": dict(
        base="bert",
        labels=["a", "b", "c", "d"],
        problem=MULTI,
        config=dict(layer_norm_eps=1e-5),
        lowercase=False,
        store=torch.float16,
    ),
    "bert_regression": dict(base="bert", labels=["LABEL_0"], problem=VALUE, store=torch.bfloat16),
    "bert_cross": dict(base="bert", labels=["LABEL_0"], problem=None, write={"sentence_transformers": SIGMOID}),
    "bert_cross_old": dict(
        base="bert",
        labels=["LABEL_0"],
        problem=None,
        store=torch.float16,
        write={"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ),
    "bert_cross_now": dict(base="bert", labels=["LABEL_0"], problem=None, current=True, store=torch.bfloat16),
    "bert_gelu_tanh": dict(
        base="bert", labels=["no", "yes"], problem=SINGLE, config=dict(hidden_act="gelu_new", layer_norm_eps=1e-5)
    ),
    "distilbert_classify": dict(base="distilbert", labels=["x", "y", "z"], problem=None, store=torch.float16),
    "distilbert_multilabel": dict(base="distilbert", labels=["p", "q"], problem=MULTI, lowercase=False),
    "quant_bert_int8": dict(
        base="bert",
        labels=["x", "y", "z"],
        problem=SINGLE,
        quant=dict(
            q=compressed("int-quantized", {"strategy": "channel"}, PER_TOKEN, ignore=["classifier"]), scale=torch.bfloat16
        ),
    ),
    "quant_bert_fp8": dict(
        base="bert",
        labels=["x", "y", "z"],
        problem=SINGLE,
        quant=dict(
            q=compressed(
                "float-quantized",
                {"type": "float", "strategy": "channel"},
                {**PER_TOKEN, "type": "float"},
                ignore=["classifier"],
            ),
            scale=torch.bfloat16,
        ),
    ),
}

CLASSES = {
    "bert": (BertConfig, BertForSequenceClassification, BERT),
    "distilbert": (DistilBertConfig, DistilBertForSequenceClassification, DISTILBERT),
}
# Matrices large enough that the form of GELU shows; embeddings small enough that the epsilon does.
SCALES = {"embed": 0.02, "classifier.weight": 0.4}
HIDDEN_OF = 2
# How the libraries are asked to load: f32 whatever is on disk, attention written out.
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}


def make(out, name):
    variant = VARIANTS[name]
    config_class, model_class, base = CLASSES[variant["base"]]
    labels = variant["labels"]
    config = config_class(
        **{**base, **variant.get("config", {})},
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=variant["problem"],
    )
    seed = 100 + list(VARIANTS).index(name)
    case = Case(out, name, seed=seed, kind="classifier", architecture=model_class.__name__, labels=labels)
    model = fill(model_class(config), seed, matrix=0.35, scales=SCALES)
    tensors = quantize_layers(model, variant["quant"], seed) if "quant" in variant else None
    write_folder(case, model, variant)
    model = model_class.from_pretrained(case.model, **EXACT).eval()

    cross = name.startswith("bert_cross")
    pairs = wordpiece.PAIRS if variant["base"] == "bert" else []
    rows = wordpiece.inputs(case.model, variant.get("lowercase", True), [] if cross else wordpiece.TEXTS, pairs)
    case.info.update(inputs=rows, limit=64, hidden_states_of=HIDDEN_OF)
    case.info["activation"], scores = activated(case, model, rows)
    case.add("logits", torch.stack([run(model, row).logits[0] for row in rows]))
    case.add("scores", scores)
    for i, value in enumerate(run(model, rows[HIDDEN_OF]).hidden_states):
        case.add(f"hidden.{i}", value[0])
    check_activation(case)
    case.info["controls"] = controls(case, model, rows)
    if tensors:
        # The answers above are of the dequantized values; the folder that is kept holds the codes.
        save_file(tensors, case.model / "model.safetensors", metadata={"format": "pt"})
        edit_json(case.model / "config.json", quantization_config=variant["quant"]["q"])
    case.write()


def quantize_layers(model, quant, seed):
    """Puts dequantized values into the linear layers that are quantized; returns all tensors as the file has them."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, parameter in model.state_dict().items():
        linear = parameter.ndim == 2 and "embeddings" not in name
        if not linear or name.removesuffix(".weight") in quant["q"]["ignore"]:
            tensors[name] = parameter.clone()
            continue
        parts, values = quantize(quant, parameter, rng)
        parameter.copy_(values)
        stem = name.removesuffix(".weight")
        tensors.update({f"{stem}.{part}": tensor.contiguous() for part, tensor in parts.items()})
    return tensors


def run(model, row):
    ids = {"input_ids": torch.tensor([row["ids"]])}
    if model.config.model_type == "bert":
        ids["token_type_ids"] = torch.tensor([row["type_ids"]])
    return model(**ids, output_hidden_states=True)


def write_folder(case, model, variant):
    folder = case.model
    model.to(variant.get("store", torch.float32)).save_pretrained(folder)
    if variant.get("position_ids"):
        # Checkpoints from before transformers 4.31 hold this buffer: a tensor that must be ignored by name.
        tensors = load_file(folder / "model.safetensors")
        tensors["bert.embeddings.position_ids"] = torch.arange(model.config.max_position_embeddings)[None]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        edit_json(folder / "config.json", drop=["dtype"], torch_dtype="float32", transformers_version="4.28.0")
    edit_json(folder / "config.json", **variant.get("write", {}))
    tokenizer_class = "BertTokenizer" if variant["base"] == "bert" else "DistilBertTokenizer"
    wordpiece.write(
        folder,
        lowercase=variant.get("lowercase", True),
        tokenizer_class=tokenizer_class,
        switched_on=variant.get("switched_on", False),
    )
    if variant.get("current"):
        # Today the activation is named in config_sentence_transformers.json.
        save_again(CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity()), folder)


def activated(case, model, rows):
    """(name of the activation, scores [inputs, labels]) as the reference libraries themselves give them."""
    if case.name.startswith("bert_cross"):
        scorer = CrossEncoder(str(case.model), device="cpu", model_kwargs=EXACT)
        one = [scorer.predict([(row["text"], row["pair"])], show_progress_bar=False) for row in rows]
        return "sigmoid" if case.name == "bert_cross" else "none", torch.tensor([[float(s[0])] for s in one])
    pipeline = TextClassificationPipeline(
        model=model, tokenizer=AutoTokenizer.from_pretrained(case.model), device=torch.device("cpu")
    )
    scores = []
    for row in rows:
        asked = {"text": row["text"], "text_pair": row["pair"]} if row["pair"] is not None else row["text"]
        got = {entry["label"]: entry["score"] for entry in pipeline(asked, top_k=None)}
        scores.append([got[label] for label in case.info["labels"]])
    name = {SINGLE: "softmax", None: "softmax", MULTI: "sigmoid", VALUE: "none"}[VARIANTS[case.name]["problem"]]
    return name, torch.tensor(scores)


def check_activation(case):
    """The named activation of the logits is what the library answered, so the name in case.json is true."""
    logits = torch.from_numpy(case.tensors["logits"])
    forms = {"softmax": lambda x: torch.softmax(x, -1), "sigmoid": torch.sigmoid, "none": lambda x: x}
    gap = relative(forms[case.info["activation"]](logits), torch.from_numpy(case.tensors["scores"]))
    assert gap < 2e-6, (case.name, case.info["activation"], gap)


def controls(case, model, rows):
    """Largest move of the hidden states or logits, as a share of the largest value, under each wrong reading."""
    right = torch.cat([run(model, row).hidden_states[-1][0] for row in rows])
    found = {}

    def against(label, **changes):
        config = copy.deepcopy(model.config)
        for key, value in changes.items():
            setattr(config, key, value)
        other = type(model)(config).eval()
        other.load_state_dict(model.state_dict())
        found[label] = float(f"{relative(torch.cat([run(other, row).hidden_states[-1][0] for row in rows]), right):.2g}")

    bert = model.config.model_type == "bert"
    tanh = (model.config.hidden_act if bert else model.config.activation) != "gelu"
    against("the other form of GELU", **{"hidden_act" if bert else "activation": "gelu" if tanh else "gelu_new"})
    if bert:
        other = 1e-12 if model.config.layer_norm_eps > 1e-6 else 1e-5
        against("the other norm epsilon", layer_norm_eps=other)
        zero = [{**row, "type_ids": [0] * len(row["ids"])} for row in rows]
        moved = torch.cat([run(model, row).hidden_states[-1][0] for row in zero])
        found["type ids all zero"] = float(f"{relative(moved, right):.2g}")
    assert min(found.values()) > 1e-4, (case.name, found)
    return found
