"""Makes the demo's intent and rerank models: data, training, evaluation, fixtures.

    pip install -r scripts/requirements-train.txt
    python scripts/demo_models.py --embedder DIR --out tests/models

DIR is a folder with all-MiniLM-L6-v2 as sentence-transformers reads it; it is only a yardstick.
Runs on one core without a GPU. All text is our own invention; every draw is seeded.
"""

import argparse
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from demo_data import build, grammar, split, tokens, train, train_rerank
from demo_data.ranking import Bm25, embedder_scores
from demo_data.report import (Write, check_files, confusion, expected_intents, expected_scores,
                              ndcg_table, readme)

SEED = 23
INTENT = train.Recipe(epochs=8, batch=64, rate=1.5e-3, seed=SEED)
RERANK = train.Recipe(epochs=9, batch=64, rate=1e-3, seed=SEED)
PRODUCTS = {"train": 600, "test": 66}
REPEATS = {"train": {"title": 2, "theme": 24, "faq": 24}, "test": {"title": 2, "theme": 3, "faq": 5}}
ACTIVATION = "torch.nn.modules.activation.Sigmoid"


@dataclass
class Side:
    """All data of one side of the split."""

    families: list[split.Family]
    titles: list[split.Title]
    examples: list[build.Example]
    corpus: list[build.Passage]
    queries: list[build.Query]

    def patterns(self) -> set[str]:
        """Every sentence before its slots are filled."""
        return {e.pattern for e in self.examples} | {q.pattern for q in self.queries}


def build_sides() -> tuple[Side, Side]:
    """Draws train and test data; then takes from train every pattern that test has too."""
    intents = split.split_families(split.intent_families(), SEED)
    carriers = split.split_families(split.carrier_families(), SEED, across_topics=True)
    search = split.split_families(split.rerank_families(), SEED)
    sides = []
    for at, (name, titles) in enumerate(zip(("train", "test"), split.split_titles(SEED))):
        asked = intents[at] + split.with_phrases(carriers[at])
        families = asked + search[at]
        products = [f for f in search[at] if f.topic == "product"]
        corpus = build.passages(name, products, titles, PRODUCTS[name], SEED)
        queries = build.QueryMaker(name, families, corpus, titles, SEED).all(REPEATS[name])
        examples = build.intent_examples(asked, name, titles, SEED)
        sides.append(Side(families, titles, examples, corpus, queries))
    old, new = sides
    held = new.patterns()
    old.examples = [e for e in old.examples if e.pattern not in held]
    old.queries = [q for q in old.queries if q.pattern not in held]
    return old, new


def assert_split(old: Side, new: Side) -> dict[str, int]:
    """Stops unless the sides share no family, pattern, title, text, passage or frame."""
    parts = {
        "families": ({f.text for f in old.families}, {f.text for f in new.families}),
        "patterns": (old.patterns(), new.patterns()),
        "titles": ({t for pair in old.titles for t in pair},
                   {t for pair in new.titles for t in pair}),
        "sentences": ({e.text for e in old.examples}, {e.text for e in new.examples}),
        "queries": ({q.text for q in old.queries}, {q.text for q in new.queries}),
        "passages": ({p.text for p in old.corpus}, {p.text for p in new.corpus}),
        "frames": grammar.frames(),
    }
    counts = {}
    for name, (a, b) in parts.items():
        shared = a & b
        if shared or not a or not b:
            raise SystemExit(f"split of {name} is broken: {sorted(shared)[:5]}")
        counts |= {f"{name}_train": len(a), f"{name}_test": len(b), f"{name}_shared": len(shared)}
        print(f"split: {name}: train {len(a)}, test {len(b)}, shared {len(shared)}")
    return counts


def items_of(texts: list[str], encoder: tokens.DropoutEncoder) -> list[train.Item]:
    """Single inputs without dropout."""
    return [train.single(encoder.ids(text, 0.0, train.random.Random(0))) for text in texts]


def accuracy(model: torch.nn.Module, new: Side, labels: list[str],
             encoder: tokens.DropoutEncoder) -> tuple[float, list[str]]:
    """Share of right labels on the test side, and the labels predicted."""
    logits = train.logits_of(model, items_of([e.text for e in new.examples], encoder))
    predicted = [labels[i] for i in logits.argmax(1).tolist()]
    right = sum(p == e.intent for p, e in zip(predicted, new.examples))
    return right / len(predicted), predicted


def intents(old: Side, new: Side, tokenizer: tokens.Tokenizer, name: str,
            out: Path) -> dict:
    """Trains the intent model (`name` "intent", written to its folder) or its reference
    ("twice", only measured); returns the figures."""
    labels = sorted({e.intent for e in old.examples})
    encoder = tokens.DropoutEncoder(tokenizer)
    train.set_deterministic(SEED)
    make = train.distilbert if name == "intent" else train.twice_bert
    model = make(tokenizer.get_vocab_size(), labels)
    draw = train.intent_items(old.examples, labels, encoder)
    seconds = train.fit(model, draw, train.intent_loss, INTENT, name)
    score, predicted = accuracy(model, new, labels, encoder)
    print(f"{name}: accuracy {score:.4f}, {train.parameters(model)} parameters", flush=True)
    if name == "intent":
        save(model, tokenizer, out / "intent", "DistilBertTokenizer")
    return {"accuracy": score, "parameters": train.parameters(model),
            "layers": model.config.num_hidden_layers, "architecture": type(model).__name__,
            "recipe": vars(INTENT), "seconds": round(seconds), "labels": labels,
            **confusion(new.examples, predicted, labels)}


def rerank(old: Side, new: Side, tokenizer: tokens.Tokenizer, embedder: str, out: Path) -> dict:
    """Trains the rerank model, writes the folder, returns NDCG@5 of all three orders."""
    encoder = tokens.DropoutEncoder(tokenizer)
    train.set_deterministic(SEED)
    activation = {"activation_fn": ACTIVATION, "version": version("sentence-transformers")}
    model = train.cross_encoder(tokenizer.get_vocab_size(), activation)
    intent = train.DistilBertForSequenceClassification.from_pretrained(out / "intent")
    train_rerank.prepare(model, intent)
    draw = train_rerank.rerank_items(old.queries, old.corpus, encoder)
    loss = train_rerank.RerankLoss(model.config.hidden_size,
                                   len(train_rerank.topics_of(old.corpus)))
    seconds = train.fit(model, draw, loss, RERANK, "rerank", loss.parameters())
    save(model, tokenizer, out / "rerank", "BertTokenizer")
    plain = train.random.Random(0)
    texts = [encoder.ids(p.text, 0.0, plain) for p in new.corpus]
    pairs = [train.pair(encoder.ids(q.text, 0.0, plain), text)
             for q in new.queries for text in texts]
    asked, told = [q.text for q in new.queries], [p.text for p in new.corpus]
    bm25 = Bm25(told)
    scores = {
        "rerank": train.logits_of(model, pairs).numpy().reshape(len(asked), len(told)),
        "bm25": np.stack([bm25.scores(q) for q in asked]),
        "embedder": embedder_scores(embedder, asked, told),
    }
    table = ndcg_table(scores, new.queries, new.corpus)
    for part, row in table.items():
        print(f"rerank: {part}: " + ", ".join(f"{n} {v:.4g}" for n, v in row.items()), flush=True)
    return {"parameters": train.parameters(model), "layers": model.config.num_hidden_layers,
            "architecture": type(model).__name__, "seconds": round(seconds),
            "recipe": vars(RERANK), "queries": len(asked), "passages": len(told),
            "ndcg_at_5": table}


def save(model: torch.nn.Module, tokenizer: tokens.Tokenizer, folder: Path, kind: str) -> None:
    """Writes one Hugging Face folder, f32."""
    model.save_pretrained(folder)
    tokens.write_tokenizer(tokenizer, folder, kind, train.MAX_LENGTH)


def write_data(old: Side, new: Side, write: Write) -> None:
    """Writes the data sets as JSON lines."""
    for name, side in (("train", old), ("test", new)):
        write.lines(f"data/intent_{name}.jsonl", [e.row() for e in side.examples])
        write.lines(f"data/rerank_passages_{name}.jsonl", [
            {"id": p.id, "kind": p.kind, "lang": p.lang, "key": p.key, "text": p.text}
            for p in side.corpus])
        write.lines(f"data/rerank_queries_{name}.jsonl", [
            {"text": q.text, "kind": q.kind, "lang": q.lang, "family": q.family,
             "relevant": list(q.relevant)} for q in side.queries])


def main() -> None:
    """Everything, in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embedder", required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    args = parser.parse_args()
    started = time.monotonic()
    write = Write(args.out)
    old, new = build_sides()
    report: dict = {"seed": SEED, "split": assert_split(old, new)}
    write_data(old, new, write)
    texts = [e.text for e in old.examples] + [p.text for p in old.corpus]
    tokenizer = tokens.train_tokenizer(texts + [q.text for q in old.queries])
    report["vocabulary"] = tokenizer.get_vocab_size()
    report["intent"] = intents(old, new, tokenizer, "intent", args.out)
    report["rerank"] = rerank(old, new, tokenizer, args.embedder, args.out)
    report["twice"] = intents(old, new, tokenizer, "twice", args.out)
    report["kept"] = report["intent"]["accuracy"] / report["twice"]["accuracy"]
    write.json("expected.json", {"intent": expected_intents(args.out / "intent", new.examples),
                                 "rerank": expected_scores(args.out / "rerank", new)})
    names = ("torch", "transformers", "tokenizers", "safetensors", "sentence-transformers", "numpy")
    report["versions"] = {"python": platform.python_version()} | {n: version(n) for n in names}
    report["seconds"] = round(time.monotonic() - started)
    write.json("report.json", report)
    write.text("README.md", readme(report))
    report["bytes"] = check_files(args.out)
    write.json("report.json", report)
    sys.exit(verdict(report))


def verdict(report: dict) -> int:
    """0 if the figures are as promised, else 1 and the reason."""
    order = report["rerank"]["ndcg_at_5"]["all"]
    claims = {
        "intent keeps 97 % of the model twice its size": report["kept"] >= 0.97,
        "rerank beats BM25": order["rerank"] > order["bm25"],
        "rerank beats the embedder": order["rerank"] > order["embedder"],
        "all files stay under 12 MB": report["bytes"] < 12_000_000,
    }
    for claim, holds in claims.items():
        print(f"{'yes' if holds else 'NO '} {claim}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    main()
