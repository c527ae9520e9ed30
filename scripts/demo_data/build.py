"""Builds the data sets from the families: intents, rerank passages and rerank queries."""

import random
from dataclasses import asdict, dataclass

from . import faq, grammar, rerank_text, themes
from .split import Family, Title, digest, split_families, split_faq

INTENT_VARIANTS = {"train": 12, "test": 6}
CARRIER_VARIANTS = {"train": 6, "test": 3}
UNFRAMED = {"greeting", "thanks"}


@dataclass(frozen=True)
class Example:
    """One labelled sentence. `pattern` is the sentence before slots, frame and typos."""

    text: str
    intent: str
    lang: str
    level: str
    family: str
    pattern: str

    def row(self) -> dict[str, str]:
        """The fields that are written to the data file."""
        row = asdict(self)
        del row["pattern"]
        row["family"] = self.family.removeprefix(f"{self.intent}.")
        return row


@dataclass(frozen=True)
class Passage:
    """One shop text. `key` is the theme of a product or the topic of a FAQ."""

    id: int
    kind: str
    lang: str
    key: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Query:
    """One search with the ids of the passages that answer it."""

    text: str
    kind: str
    lang: str
    family: str
    pattern: str
    relevant: tuple[int, ...]


def ask_words(lang: str, theme: str | None = None) -> list[str]:
    """The query words of one theme, or of all."""
    chosen = [themes.THEMES[theme]] if theme else themes.THEMES.values()
    joined = [t.ask_ja if lang == "ja" else t.ask_en for t in chosen]
    return [word for words in joined for word in words.split("|")]


def intent_examples(families: list[Family], side: str, titles: list[Title],
                    seed: int) -> list[Example]:
    """Draws the variants of every family; equal sentences are kept once."""
    seen: dict[str, Example] = {}
    for family in families:
        rng = random.Random(digest(seed, f"{side}:{family.name}:{family.text}"))
        themes_ = ask_words(family.lang)
        variants = CARRIER_VARIANTS if family.phrases else INTENT_VARIANTS
        for _ in range(variants[side]):
            example = _intent_example(family, side, titles, themes_, rng)
            seen.setdefault(example.text, example)
    return list(seen.values())


def _pattern(family: Family, level: int, rng: random.Random) -> str:
    pattern = grammar.expand(family.text, level, rng)
    return pattern.replace("{x}", rng.choice(family.phrases)) if family.phrases else pattern


def _intent_example(family: Family, side: str, titles: list[Title], themes_: list[str],
                    rng: random.Random) -> Example:
    levels = grammar.LEVELS[family.lang]
    level = rng.randrange(len(levels))
    pattern = _pattern(family, level, rng)
    text = grammar.fill(pattern, family.lang, titles, themes_, rng)
    if family.topic not in UNFRAMED:
        text = grammar.frame(text, family.lang, level, side, rng)
    text = grammar.add_typos(text, family.lang, rng)
    if family.lang == "en" and rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    name = levels[level] if "<" in family.text else "plain"
    return Example(text, family.topic, family.lang, name, family.name, pattern)


def passages(side: str, families: list[Family], titles: list[Title], count: int,
             seed: int) -> list[Passage]:
    """`count` products (one title each, themes in turn, languages drawn) and the FAQ texts."""
    rng = random.Random(digest(seed, f"passages:{side}"))
    names = list(themes.THEMES)
    found: list[Passage] = []
    for i, title in enumerate(rng.sample(titles, count)):
        lang = rng.choice(["ja", "en"])
        theme = names[i % len(names)]
        family = rng.choice([f for f in families if f.lang == lang])
        found.append(_product(i, family, theme, title, side, rng))
    for topic, lang, text in split_faq()[0 if side == "train" else 1]:
        found.append(Passage(len(found), "faq", lang, topic, text))
    return found


def _product(id_: int, family: Family, theme: str, title: Title, side: str,
             rng: random.Random) -> Passage:
    lang = family.lang
    at = 0 if lang == "ja" else 1
    told = themes.THEMES[theme].tell_ja if lang == "ja" else themes.THEMES[theme].tell_en
    phrases = told.split("|")
    tell = rng.choice(phrases[:-1]) if side == "train" else phrases[-1]
    price = rng.choice([480, 528, 550, 660, 748, 880]) if lang == "ja" else rng.randint(5, 15)
    text = grammar.expand(family.text, 0, rng)
    values = {"t": title[at], "tell": tell, "n": rng.randint(1, 30), "y": price,
              "a": rng.choice(rerank_text.AUTHORS)[at]}
    text = text.format(**values)
    return Passage(id_, "product", lang, theme, text[0].upper() + text[1:], title[at])


class QueryMaker:
    """Draws the queries of one side against its passages."""

    def __init__(self, side: str, families: list[Family], corpus: list[Passage],
                 titles: list[Title], seed: int) -> None:
        """`families` are all of this side; `titles` those of this side."""
        listed = {p.title for p in corpus}
        self.side = side
        self.rng = random.Random(digest(seed, f"queries:{side}"))
        self.families = families
        self.corpus = corpus
        # FAQ queries name titles that no product passage has: only the FAQ answers them.
        self.unlisted = [t for t in titles if not listed & set(t)]

    def all(self, repeats: dict[str, int]) -> list[Query]:
        """`repeats` title queries per product, theme and FAQ queries per theme or topic and
        language; equal queries are kept once."""
        found = []
        for passage in self.corpus:
            if passage.kind == "product":
                families = self._topic("title_query", passage.lang)
                name = [(passage.title, passage.title)]
                found += [self._draw("title", families, name, [], [passage])
                          for _ in range(repeats["title"])]
        for lang in ("ja", "en"):
            for theme in themes.THEMES:
                families = self._topic("theme_query", lang) + [
                    f for f in self._topic("recommendation", lang)
                    if grammar.slots_of(f.text) == {"g"}]
                found += [self._draw("theme", families, [], ask_words(lang, theme),
                                     self._answers("product", theme))
                          for _ in range(repeats["theme"])]
            for topic in faq.FAQ:
                families = [f for f in self._topic(topic, lang)
                            if "g" not in grammar.slots_of(f.text)]
                found += [self._draw("faq", families, self.unlisted, [],
                                     self._answers("faq", topic))
                          for _ in range(repeats["faq"])]
        return list({query.text: query for query in found}.values())

    def _topic(self, topic: str, lang: str) -> list[Family]:
        return [f for f in self.families if (f.topic, f.lang) == (topic, lang)]

    def _answers(self, kind: str, key: str) -> list[Passage]:
        return [p for p in self.corpus if (p.kind, p.key) == (kind, key)]

    def _draw(self, kind: str, families: list[Family], titles: list[Title], words: list[str],
              answers: list[Passage]) -> Query:
        rng = self.rng
        family = rng.choice(families)
        level = rng.randrange(len(grammar.LEVELS[family.lang]))
        pattern = _pattern(family, level, rng)
        text = grammar.fill(pattern, family.lang, titles, words, rng)
        if kind == "faq":
            text = grammar.frame(text, family.lang, level, self.side, rng)
        text = grammar.add_typos(text, family.lang, rng)
        return Query(text, kind, family.lang, family.name, pattern, tuple(p.id for p in answers))
