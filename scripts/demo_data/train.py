"""Training loops of the demo models: one thread, seeded, the same recipe for every model."""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import (BertConfig, BertForSequenceClassification, DistilBertConfig,
                          DistilBertForSequenceClassification, PreTrainedModel)

from .build import Example
from .tokens import CLS, PAD, SEP, UNK, DropoutEncoder

MAX_LENGTH = 128
CUT_DROPOUT = 0.1
TOKEN_DROPOUT = 0.05


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train."""

    epochs: int
    batch: int
    rate: float
    seed: int


@dataclass(frozen=True)
class Item:
    """One input: token ids with specials, segment ids, target; for rerank training the topics
    of query and passage too."""

    ids: list[int]
    segments: list[int]
    target: float
    topics: tuple[int, int] = (0, 0)


def set_deterministic(seed: int) -> None:
    """One thread, deterministic kernels, seeded."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    random.seed(seed)


def distilbert(vocab: int, labels: list[str]) -> DistilBertForSequenceClassification:
    """The intent model."""
    names = dict(enumerate(labels))
    return DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=vocab, dim=128, hidden_dim=512, n_layers=2, n_heads=4,
        max_position_embeddings=MAX_LENGTH, seq_classif_dropout=0.1, pad_token_id=PAD,
        id2label=names, label2id={n: i for i, n in names.items()},
        problem_type="single_label_classification"))


def twice_bert(vocab: int, labels: list[str]) -> BertForSequenceClassification:
    """The reference of the intent model: twice its layers and twice its parameters."""
    return BertForSequenceClassification(BertConfig(
        vocab_size=vocab, hidden_size=160, intermediate_size=640, num_hidden_layers=4,
        num_attention_heads=5, max_position_embeddings=MAX_LENGTH, pad_token_id=PAD,
        num_labels=len(labels), problem_type="single_label_classification"))


def cross_encoder(vocab: int, activation: dict[str, str]) -> BertForSequenceClassification:
    """The rerank model: one label, pair input."""
    return BertForSequenceClassification(BertConfig(
        vocab_size=vocab, hidden_size=128, intermediate_size=512, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=MAX_LENGTH, pad_token_id=PAD,
        num_labels=1, sentence_transformers=activation))


def parameters(model: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in model.parameters())


def single(ids: list[int], target: float = 0.0) -> Item:
    """`[CLS] text [SEP]`."""
    ids = [CLS, *ids[:MAX_LENGTH - 2], SEP]
    return Item(ids, [0] * len(ids), target)


def pair(first: list[int], second: list[int], target: float = 0.0) -> Item:
    """`[CLS] query [SEP] passage [SEP]`, segments 0 and 1."""
    second = second[:MAX_LENGTH - 3 - len(first)]
    ids = [CLS, *first, SEP, *second, SEP]
    return Item(ids, [0] * (len(first) + 2) + [1] * (len(second) + 1), target)


def inputs_of(items: list[Item], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Pads a batch to its longest item. Tensors are [items, tokens]."""
    longest = max(len(item.ids) for item in items)

    def padded(rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    inputs = {"input_ids": padded([item.ids for item in items]),
              "attention_mask": padded([[1] * len(item.ids) for item in items])}
    if model.config.model_type == "bert":
        inputs["token_type_ids"] = padded([item.segments for item in items])
    return inputs


def _batches(items: list[Item], size: int, rng: random.Random) -> Iterator[list[Item]]:
    """Batches of about equal lengths in random order."""
    order = sorted(items, key=lambda item: (len(item.ids) // 4, rng.random()))
    cuts = [order[i:i + size] for i in range(0, len(order), size)]
    rng.shuffle(cuts)
    yield from cuts


def _blank(item: Item, rng: random.Random) -> Item:
    """Replaces a few tokens by [UNK], so that no single word decides."""
    ids = [UNK if i > SEP and rng.random() < TOKEN_DROPOUT else i for i in item.ids]
    return replace(item, ids=ids)


Draw = Callable[[random.Random], list[Item]]
Loss = Callable[[PreTrainedModel, list[Item]], torch.Tensor]


def fit(model: PreTrainedModel, epoch_items: Draw, loss_of: Loss, recipe: Recipe, name: str,
        extra: Iterable[nn.Parameter] = ()) -> float:
    """Trains with AdamW, warm-up and linear decay; returns the seconds it took. `epoch_items`
    draws the items of one epoch, `extra` are weights of `loss_of` that are trained too."""
    rng = random.Random(recipe.seed)
    weights = [*model.parameters(), *extra]
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0.01)
    items = epoch_items(rng)
    steps = recipe.epochs * math.ceil(len(items) / recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / (0.1 * steps), max(0.0, (steps - s) / (0.9 * steps))))
    started = time.monotonic()
    model.train()
    for epoch in range(recipe.epochs):
        total, count = 0.0, 0
        for batch in _batches(items, recipe.batch, rng):
            batch = [_blank(item, rng) for item in batch]
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            total, count = total + loss.item(), count + 1
        print(f"{name}: epoch {epoch + 1}/{recipe.epochs} loss {total / count:.4f} "
              f"({time.monotonic() - started:.0f} s)", flush=True)
        items = epoch_items(rng)
    model.eval()
    return time.monotonic() - started


def intent_loss(model: PreTrainedModel, batch: list[Item]) -> torch.Tensor:
    """Cross entropy with a little label smoothing."""
    logits = model(**inputs_of(batch, model)).logits
    targets = torch.tensor([int(item.target) for item in batch])
    return nn.functional.cross_entropy(logits, targets, label_smoothing=0.05)


def intent_items(examples: list[Example], labels: list[str],
                 encoder: DropoutEncoder) -> Draw:
    """Per epoch every example once, cut anew."""
    index = {name: i for i, name in enumerate(labels)}

    def draw(rng: random.Random) -> list[Item]:
        return [single(encoder.ids(e.text, CUT_DROPOUT, rng), index[e.intent]) for e in examples]

    return draw


@torch.no_grad()
def logits_of(model: PreTrainedModel, items: list[Item], batch: int = 64) -> torch.Tensor:
    """Logits [items, labels], in the order of `items`."""
    model.eval()
    order = sorted(range(len(items)), key=lambda i: len(items[i].ids))
    out = torch.empty(len(items), model.config.num_labels)
    for at in range(0, len(order), batch):
        chosen = order[at:at + batch]
        out[chosen] = model(**inputs_of([items[i] for i in chosen], model)).logits
    return out
