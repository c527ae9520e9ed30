"""RoBERTa, XLM-RoBERTa and ModernBERT: tiny random classifiers, cross-encoders and embedders; and a BERT cross-encoder with labels."""

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    TextClassificationPipeline,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from . import subwords, wordpiece
from .case import Case, edit_json, fill, relative, write_json
from .embedders import write_modules
from .encoders import BERT, EXACT, SIGMOID

FAIRSEQ = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=66,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
)
MODERN = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=64,
    local_attention=8,
    pad_token_id=3,
    bos_token_id=1,
    eos_token_id=2,
    cls_token_id=1,
    sep_token_id=2,
)
# family -> config class, base model, sequence classifier, sizes
CLASSES = {
    "bert": (BertConfig, None, BertForSequenceClassification, BERT),
    "roberta": (RobertaConfig, RobertaModel, RobertaForSequenceClassification, FAIRSEQ),
    "xlm_roberta": (XLMRobertaConfig, XLMRobertaModel, XLMRobertaForSequenceClassification, FAIRSEQ),
    "modernbert": (ModernBertConfig, ModernBertModel, ModernBertForSequenceClassification, MODERN),
}
# ModernBERT's older spelling, as on its first checkpoints.
OLD_MODERN = dict(global_attn_every_n_layers=3, global_rope_theta=9000.0, local_rope_theta=300.0)

# name -> family, what it is, what is special; `pairs`: what is asked are pairs.
VARIANTS = {
    "roberta_classify": dict(family="roberta", labels=["在庫確認", "shipping", "返品"]),
    "roberta_cross": dict(family="roberta", labels=["LABEL_0"], pairs=True, write={"sentence_transformers": SIGMOID}),
    "roberta_embed_mean": dict(family="roberta", pooling="mean", normalize=True),
    "xlm_roberta_classify": dict(family="xlm_roberta", labels=["a", "b"]),
    "xlm_roberta_cross": dict(
        family="xlm_roberta",
        labels=["LABEL_0"],
        pairs=True,
        write={"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ),
    "xlm_roberta_embed_cls": dict(family="xlm_roberta", pooling="cls", normalize=True),
    "modernbert_classify": dict(family="modernbert", labels=["p", "q", "r"], config=dict(classifier_pooling="cls")),
    "modernbert_mean": dict(
        family="modernbert",
        labels=["no", "yes"],
        config=dict(
            classifier_pooling="mean",
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 9000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        ),
        old=True,
    ),
    "modernbert_biases": dict(
        family="modernbert",
        labels=["x", "y"],
        config=dict(
            norm_bias=True,
            attention_bias=True,
            mlp_bias=True,
            classifier_bias=True,
            hidden_activation="gelu_pytorch_tanh",
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        ),
    ),
    "modernbert_cross": dict(
        family="modernbert", labels=["LABEL_0"], pairs=True, config=dict(classifier_pooling="mean"), write={"sentence_transformers": SIGMOID}
    ),
    "modernbert_embed_mean": dict(family="modernbert", pooling="mean", normalize=False),
    "bert_cross_labels": dict(family="bert", labels=["contradiction", "entailment", "neutral"], pairs=True, softmax=True),
}
SCALES = {"classifier.weight": 0.4, "out_proj.weight": 0.4, "embed": 0.3}
HIDDEN_OF = 2
LIMIT = 64


def make(out, name):
    variant = VARIANTS[name]
    family = variant["family"]
    config_class, base_class, sequence_class, sizes = CLASSES[family]
    labels = variant.get("labels")
    named = {} if labels is None else dict(id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    vocab = {} if family == "bert" else {"vocab_size": subwords.VOCAB[family]}
    config = config_class(**{**sizes, **vocab, **variant.get("config", {}), **named})
    seed = 300 + list(VARIANTS).index(name)
    model_class = sequence_class if labels else base_class
    case = Case(out, name, seed=seed, kind="classifier" if labels else "embedder", architecture=model_class.__name__)
    model = fill(model_class(config), seed, matrix=0.3, scales=SCALES)
    model.to(torch.bfloat16).save_pretrained(case.model)
    edit_json(case.model / "config.json", **variant.get("write", {}))
    if variant.get("old"):
        edit_json(case.model / "config.json", drop=["layer_types", "rope_parameters"], **OLD_MODERN)
    if family == "bert":
        wordpiece.write(case.model)
    else:
        subwords.write(case.model, family)
    model = model_class.from_pretrained(case.model, **EXACT).eval()
    texts, pairs = ([], wordpiece.PAIRS) if variant.get("pairs") else (wordpiece.TEXTS, [])
    if labels and not variant.get("pairs") and family != "bert":
        pairs = wordpiece.PAIRS[:2]
    rows = [row for row in subwords.inputs(case.model, texts, pairs) if row["pair"] is None or len(row["ids"]) <= LIMIT]
    case.info.update(inputs=rows, limit=LIMIT, hidden_states_of=HIDDEN_OF)
    short = [row for row in rows if len(row["ids"]) <= LIMIT]
    assert len(short) >= 3 and rows[HIDDEN_OF] in short, (name, [len(row["ids"]) for row in rows])
    if labels:
        case.info["labels"] = labels
        classify(case, model, variant)
    else:
        embed(case, model, variant)
    for i, value in enumerate(run(model, rows[HIDDEN_OF]).hidden_states):
        case.add(f"hidden.{i}", value[0])
    case.info["controls"] = controls(case, model, short)
    case.write()


def run(model, row, **more):
    ids = {"input_ids": torch.tensor([row["ids"][:LIMIT]])}
    if model.config.model_type == "bert":
        ids["token_type_ids"] = torch.tensor([row["type_ids"]])
    return model(**ids, output_hidden_states=True, **more)


def classify(case, model, variant):
    rows = case.info["inputs"]
    logits = torch.stack([run(model, row).logits[0] for row in rows])
    case.add("logits", logits)
    if variant.get("pairs") and not variant.get("softmax"):
        scorer = CrossEncoder(str(case.model), device="cpu", model_kwargs=EXACT)
        scores = [scorer.predict([(row["text"], row["pair"])], show_progress_bar=False) for row in rows]
        case.add("scores", torch.tensor([[float(s[0])] for s in scores]))
        case.info["activation"] = "sigmoid" if "sentence_transformers" in variant["write"] else "none"
    else:
        if variant.get("softmax"):
            # What CrossEncoder gives for several labels: nothing but logits.
            scorer = CrossEncoder(str(case.model), device="cpu", model_kwargs=EXACT)
            bare = torch.tensor([scorer.predict((row["text"], row["pair"]), show_progress_bar=False) for row in rows])
            assert relative(bare, logits) < 1e-5, case.name
        pipeline = TextClassificationPipeline(
            model=model, tokenizer=AutoTokenizer.from_pretrained(case.model), device=torch.device("cpu")
        )
        scores = []
        for row in rows:
            asked = {"text": row["text"], "text_pair": row["pair"]} if row["pair"] is not None else row["text"]
            got = {entry["label"]: entry["score"] for entry in pipeline(asked, top_k=None)}
            scores.append([got[label] for label in case.info["labels"]])
        case.add("scores", torch.tensor(scores))
        case.info["activation"] = "softmax"
    forms = {"softmax": lambda x: torch.softmax(x, -1), "sigmoid": torch.sigmoid, "none": lambda x: x}
    gap = relative(forms[case.info["activation"]](logits), torch.from_numpy(case.tensors["scores"]))
    assert gap < 5e-6, (case.name, gap)


def embed(case, model, variant):
    folder, limit = case.model, 48
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    write_modules(folder, variant)
    case.info.update(pooling=variant["pooling"], normalize=variant["normalize"], limit=limit)
    embedder = SentenceTransformer(str(folder), device="cpu", model_kwargs=EXACT)
    assert embedder.max_seq_length == limit

    def vector(text):
        return embedder.encode([text], batch_size=1, convert_to_tensor=True, show_progress_bar=False)[0]

    long = subwords.inputs(folder, [wordpiece.LONG_TEXT], [])[0]["ids"]
    cut = long[: limit - 1] + long[-1:]
    case.info["too_long"] = {"text": wordpiece.LONG_TEXT, "tokens": len(long), "truncated_ids": cut}
    case.add("embeddings", torch.stack([vector(row["text"]) for row in case.info["inputs"]]))
    case.add("too_long", vector(wordpiece.LONG_TEXT))


def controls(case, model, rows):
    """Largest move of the last hidden states, as a share of the largest value, under each wrong reading."""
    right = torch.cat([run(model, row).hidden_states[-1][0] for row in rows])
    found = {}

    def moved(label, again):
        found[label] = float(f"{relative(torch.cat([again(row) for row in rows]), right):.2g}")

    def other(**changes):
        config = model.config.__class__(**{**model.config.to_dict(), **changes})
        changed = type(model)(config).eval()
        changed.load_state_dict(model.state_dict())
        changed.config._attn_implementation = "eager"
        return lambda row: run(changed, row).hidden_states[-1][0]

    kind = model.config.model_type
    if kind == "modernbert":
        moved("twice the window", other(local_attention=16))
        theta = {"full_attention": {"rope_type": "default", "rope_theta": 500.0}}
        theta["sliding_attention"] = model.config.rope_parameters["sliding_attention"]
        moved("another base of global layers", other(rope_parameters=theta))
        theta = {"sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}
        theta["full_attention"] = model.config.rope_parameters["full_attention"]
        moved("another base of local layers", other(rope_parameters=theta))
    elif kind != "bert":
        from_zero = lambda row: run(model, row, position_ids=torch.arange(len(row["ids"][:LIMIT]))[None]).hidden_states[-1][0]
        moved("positions from 0", from_zero)
    assert all(value > 1e-3 for value in found.values()), (case.name, found)
    return found
