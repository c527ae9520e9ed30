"""Divides sentence families and titles into a train and a test side that share nothing.

Families that resemble each other (more than 40 % of their letter trigrams in common) stay
together on one side, so that a test family is never a train family with one word changed.
The side follows from a digest of the text and the seed: it does not depend on what is trained.
"""

import hashlib
import itertools
import re
from dataclasses import dataclass

from . import (carriers, faq, intents_account, intents_catalog, intents_orders, intents_talk,
               phrases, rerank_text, titles)

TEST_SHARE = 0.25
SIMILAR = 0.4


@dataclass(frozen=True)
class Family:
    """One sentence family: `name` is unique, `topic` the intent or the kind of text. `phrases`
    fill the slot `{x}` of a carrier."""

    name: str
    topic: str
    lang: str
    text: str
    phrases: tuple[str, ...] = ()


def digest(seed: int, text: str) -> int:
    """A number that depends on `seed` and `text` alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8], "big")


def families_of(table: dict[str, dict[str, str]]) -> list[Family]:
    """Reads the lines of a family table."""
    return [
        Family(f"{topic}.{lang}.{i:02}", topic, lang, line)
        for topic, langs in table.items()
        for lang, block in langs.items()
        for i, line in enumerate(block.strip().splitlines())
    ]


def intent_families() -> list[Family]:
    """All families of all intents."""
    tables = (intents_orders, intents_catalog, intents_account, intents_talk)
    return [family for table in tables for family in families_of(table.FAMILIES)]


def carrier_families() -> list[Family]:
    """The carrier sentences; the topic is the kind of phrase they hold."""
    return families_of(carriers.CARRIERS)


def with_phrases(carriers: list[Family]) -> list[Family]:
    """Every carrier joined with the phrases of every intent that has its kind."""
    return [
        Family(f"{intent}.{carrier.name}", intent, carrier.lang, carrier.text,
               tuple(kinds[carrier.topic].split("|")))
        for carrier in carriers
        for intent, langs in phrases.PHRASES.items()
        if carrier.topic in (kinds := langs[carrier.lang])
    ]


def rerank_families() -> list[Family]:
    """The families of title and theme queries and of product texts."""
    return families_of(rerank_text.FAMILIES)


def trigrams(text: str) -> set[str]:
    """Letter trigrams of a family with all its choices, without the notation."""
    plain = re.sub(r"[(){}<>|/?？。、！ ]+", " ", text)
    return {plain[i:i + 3] for i in range(max(1, len(plain) - 2))}


def similarity(a: str, b: str) -> float:
    """Jaccard index of the letter trigrams, 0 to 1."""
    x, y = trigrams(a), trigrams(b)
    return len(x & y) / len(x | y)


def groups_of(families: list[Family]) -> list[list[Family]]:
    """Joins families that are similar (transitively)."""
    parent = list(range(len(families)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    grams = [trigrams(f.text) for f in families]
    for i, j in itertools.combinations(range(len(families)), 2):
        if len(grams[i] & grams[j]) > SIMILAR * len(grams[i] | grams[j]):
            parent[root(j)] = root(i)
    groups: dict[int, list[Family]] = {}
    for i, family in enumerate(families):
        groups.setdefault(root(i), []).append(family)
    return list(groups.values())


def split_families(families: list[Family], seed: int,
                   across_topics: bool = False) -> tuple[list[Family], list[Family]]:
    """Splits each (topic, language), or with `across_topics` each language, by similarity group;
    about a quarter goes to the test side."""
    train: list[Family] = []
    test: list[Family] = []
    cells: dict[tuple[str, str], list[Family]] = {}
    for family in families:
        cells.setdefault(("" if across_topics else family.topic, family.lang), []).append(family)
    for cell in cells.values():
        groups = sorted(groups_of(cell), key=lambda g: digest(seed, g[0].text))
        wanted = round(len(cell) * TEST_SHARE)
        taken = 0
        for group in groups:
            to_test = taken + len(group) <= wanted
            taken += len(group) if to_test else 0
            (test if to_test else train).extend(group)
    return train, test


Title = tuple[str, str]


def split_titles(seed: int) -> tuple[list[Title], list[Title]]:
    """Train and test titles. A composed test title has at least one word that no composed train
    title has."""
    train, test = _sides(titles.TITLES, seed)
    old_mods, new_mods = _sides(titles.MODIFIERS, seed)
    old_heads, new_heads = _sides(titles.HEADS, seed)
    train += _compose(old_mods, old_heads)
    test += _compose(new_mods, old_heads + new_heads) + _compose(old_mods, new_heads)
    known = {name for pair in train for name in pair}
    return train, [pair for pair in test if not known & set(pair)]


def _sides(pairs: list[Title], seed: int) -> tuple[list[Title], list[Title]]:
    ordered = sorted(pairs, key=lambda pair: digest(seed, pair[0]))
    cut = round(len(ordered) * TEST_SHARE)
    return ordered[cut:], ordered[:cut]


def _compose(mods: list[Title], heads: list[Title]) -> list[Title]:
    joined = []
    for (ja, en), (ja_head, en_head) in itertools.product(mods, heads):
        link = "" if ja.endswith(("た", "る", "な", "ぶ", "う")) else "の"
        joined.append((f"{ja}{link}{ja_head}", f"{en} {en_head}"))
    return joined


def split_faq() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """FAQ passages as (topic, language, text): the last of each list is the test side."""
    train, test = [], []
    for topic, langs in faq.FAQ.items():
        for lang, texts in langs.items():
            train += [(topic, lang, text) for text in texts[:-1]]
            test.append((topic, lang, texts[-1]))
    return train, test
