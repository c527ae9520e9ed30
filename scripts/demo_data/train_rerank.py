"""How the cross-encoder is trained.

A small cross-encoder that starts from nothing does not find by itself, in reasonable time, that
it has to compare: its one bit of supervision per pair is too thin. So it grows from the intent
model, with one layer below whose attention prefers equal tokens, and has two helping tasks while
training, whose weights are thrown away: to name the topics of query and passage, and to tell
which query tokens occur in the passage.
"""

import random
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from .build import Passage, Query
from .tokens import SEP, DropoutEncoder
from .train import CUT_DROPOUT, Draw, Item, inputs_of, pair

TITLE_TOPIC = "title"
TOPIC_WEIGHT = 0.3


def prepare(model: PreTrainedModel, intent: PreTrainedModel) -> None:
    """Start values: the intent model on top of one new layer that compares. The new layer's
    query and key maps of a head are equal and orthonormal, so that a token attends to its like
    (Trockman and Kolter, 2023, "Mimetic initialization of self-attention layers"); what it adds
    is small at first, so that the layers above see what they know."""
    own, known = model.bert.embeddings, intent.distilbert.embeddings
    with torch.no_grad():
        _copy(own.word_embeddings, known.word_embeddings)
        _copy(own.position_embeddings, known.position_embeddings)
        _copy(own.LayerNorm, known.LayerNorm)
        first, *others = model.bert.encoder.layer
        _prefer_equals(first.attention.self)
        first.attention.output.dense.weight.mul_(0.5)
        first.output.dense.weight.mul_(0.5)
        for layer, source in zip(others, intent.distilbert.transformer.layer, strict=True):
            attention = layer.attention
            for target, name in ((attention.self.query, "q_lin"), (attention.self.key, "k_lin"),
                                 (attention.self.value, "v_lin"),
                                 (attention.output.dense, "out_lin")):
                _copy(target, getattr(source.attention, name))
            _copy(attention.output.LayerNorm, source.sa_layer_norm)
            _copy(layer.intermediate.dense, source.ffn.lin1)
            _copy(layer.output.dense, source.ffn.lin2)
            _copy(layer.output.LayerNorm, source.output_layer_norm)


def _copy(target: nn.Module, source: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def _prefer_equals(attention: nn.Module) -> None:
    width, size = attention.query.weight.shape[1], attention.attention_head_size
    for at in range(0, attention.all_head_size, size):
        basis = torch.linalg.qr(torch.randn(width, size))[0].T * 0.9
        attention.query.weight[at:at + size] = basis
        attention.key.weight[at:at + size] = basis


def topics_of(corpus: list[Passage]) -> dict[str, int]:
    """Number of every theme and FAQ topic, and of "asks for a title"."""
    return {name: i for i, name in enumerate(sorted({p.key for p in corpus}) + [TITLE_TOPIC])}


def rerank_items(queries: list[Query], corpus: list[Passage], encoder: DropoutEncoder) -> Draw:
    """Per epoch and query: one answer, one near miss and one passage drawn freely."""
    near = {p.id: [o.id for o in corpus if o.kind == p.kind and o.lang == p.lang
                   and (p.kind == "faq" or _share_word(p.title, o.title))] for p in corpus}
    number = topics_of(corpus)

    def draw(rng: random.Random) -> list[Item]:
        items = []
        for query in queries:
            answer = rng.choice(query.relevant)
            misses = [rng.choice(near[answer]), rng.randrange(len(corpus))]
            topic = TITLE_TOPIC if query.kind == "title" else corpus[answer].key
            asked = encoder.ids(query.text, CUT_DROPOUT, rng)
            for i in [answer] + [m for m in misses if m not in query.relevant]:
                told = encoder.ids(corpus[i].text, CUT_DROPOUT, rng)
                item = pair(asked, told, float(i == answer))
                items.append(replace(item, topics=(number[topic], number[corpus[i].key])))
        return items

    return draw


def _share_word(a: str, b: str) -> bool:
    return bool(set(a.split()) & set(b.split())) or a[:2] == b[:2] or a[-2:] == b[-2:]


class RerankLoss(nn.Module):
    """Binary cross entropy of the pair, plus the two helping tasks."""

    def __init__(self, width: int, topics: int) -> None:
        super().__init__()
        self.topics = topics
        self.name_topics = nn.Linear(width, 2 * topics)
        self.find_tokens = nn.Linear(width, 1)

    def forward(self, model: PreTrainedModel, batch: list[Item]) -> torch.Tensor:
        """The loss of one batch."""
        inputs = inputs_of(batch, model)
        output = model(**inputs, output_hidden_states=True)
        target = torch.tensor([item.target for item in batch])
        bce = nn.functional.binary_cross_entropy_with_logits
        named = self.name_topics(output.hidden_states[-1][:, 0])
        asked, told = (torch.tensor(row) for row in zip(*(item.topics for item in batch)))
        entropy = nn.functional.cross_entropy
        topics = entropy(named[:, :self.topics], asked) + entropy(named[:, self.topics:], told)
        chosen, found = _found(inputs)
        tokens = self.find_tokens(output.hidden_states[1])[..., 0]
        return (bce(output.logits[:, 0], target) + TOPIC_WEIGHT * topics
                + bce(tokens[chosen], found[chosen]))


def _found(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which positions are query tokens, and which of them occur in the passage; both
    [items, tokens]."""
    ids, segments = inputs["input_ids"], inputs["token_type_ids"]
    real = inputs["attention_mask"] == 1
    passage = (segments == 1) & real
    equal = (ids[:, :, None] == ids[:, None, :]) & passage[:, None, :]
    return (segments == 0) & real & (ids > SEP), equal.any(2).float()
