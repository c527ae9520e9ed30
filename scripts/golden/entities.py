"""Token classifiers of each family, asked by transformers' TokenClassificationPipeline with each aggregation strategy."""

import warnings

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForTokenClassification,
    ModernBertConfig,
    ModernBertForTokenClassification,
    RobertaConfig,
    RobertaForTokenClassification,
    TokenClassificationPipeline,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from . import subwords, wordpiece
from .case import Case, fill
from .encoders import BERT, DISTILBERT, EXACT, HIDDEN_OF
from .families import FAIRSEQ, MODERN

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
STRATEGIES = ["none", "simple", "first", "average", "max"]
# name -> family, config class, model class, sizes
VARIANTS = {
    "bert_tokens": ("bert", BertConfig, BertForTokenClassification, BERT),
    "distilbert_tokens": ("distilbert", DistilBertConfig, DistilBertForTokenClassification, DISTILBERT),
    "roberta_tokens": ("roberta", RobertaConfig, RobertaForTokenClassification, FAIRSEQ),
    "xlm_roberta_tokens": ("xlm_roberta", XLMRobertaConfig, XLMRobertaForTokenClassification, FAIRSEQ),
    "modernbert_tokens": ("modernbert", ModernBertConfig, ModernBertForTokenClassification, MODERN),
}
TEXTS = [
    "shipping returned books: where is shop",
    "a",
    "Please cancel the order #12, and refund my money!",
    "漫画の第3巻はありますか。",
    "  two  spaces,  キャンセル please\tand a tab ",
    "café naïve ßtraße 鬱 🙂 ok",
    "鬱🙂龍 [MASK] <mask> [UNK] <unk>",
]


def make(out, name):
    family, config_class, model_class, sizes = VARIANTS[name]
    vocab = {"vocab_size": subwords.VOCAB[family]} if family in subwords.VOCAB else {}
    named = dict(id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)})
    seed = 600 + list(VARIANTS).index(name)
    case = Case(out, name, seed=seed, kind="tokens", architecture=model_class.__name__, labels=LABELS)
    scales = {"classifier.weight": 0.35, "classifier.bias": 0.05, "embed": 0.3}
    model = fill(model_class(config_class(**{**sizes, **vocab, **named})), seed, matrix=0.3, scales=scales)
    model.to(torch.bfloat16).save_pretrained(case.model)
    if family in subwords.VOCAB:
        subwords.write(case.model, family)
    else:
        wordpiece.write(case.model, tokenizer_class="BertTokenizer" if family == "bert" else "DistilBertTokenizer")
    model = model_class.from_pretrained(case.model, **EXACT).eval()
    rows = subwords.inputs(case.model, TEXTS, [])
    case.info.update(inputs=rows, limit=64, hidden_states_of=HIDDEN_OF, strategies=STRATEGIES)
    for i, row in enumerate(rows):
        case.add(f"logits.{i}", model(input_ids=torch.tensor([row["ids"]])).logits[0])
    state = model(input_ids=torch.tensor([rows[HIDDEN_OF]["ids"]]), output_hidden_states=True)
    for i, value in enumerate(state.hidden_states):
        case.add(f"hidden.{i}", value[0])
    tokenizer = AutoTokenizer.from_pretrained(case.model)
    pipeline = TokenClassificationPipeline(model=model, tokenizer=tokenizer, device=torch.device("cpu"))
    answers = {}
    for strategy in STRATEGIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers[strategy] = [pipeline(row["text"], aggregation_strategy=strategy) for row in rows]
    check(case, answers)
    for strategy, found in answers.items():
        case.add(f"scores.{strategy}", torch.tensor([float(e["score"]) for entities in found for e in entities]))
        bare = [[{k: v for k, v in entity.items() if k != "score"} for entity in entities] for entities in found]
        case.info.setdefault("entities", {})[strategy] = bare
    case.write()


def check(case, answers):
    """The texts tell the strategies apart, and words and names of several pieces are among them."""

    def short(entity):
        return entity["start"], entity["end"], entity.get("entity_group"), round(float(entity["score"]), 3)

    seen = {strategy: str([[short(e) for e in entities] for entities in found]) for strategy, found in answers.items()}
    alike = [(a, b) for a in seen for b in seen if a < b and seen[a] == seen[b]]
    assert not alike, (case.name, alike)
    texts = [row["text"] for row in case.info["inputs"]]
    words = [texts[i][e["start"] : e["end"]] for i, found in enumerate(answers["average"]) for e in found]
    assert any(" " in word.strip() for word in words), (case.name, words)
