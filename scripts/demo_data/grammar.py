"""The small grammar of the sentence families, and the noise that real customers add.

`(a|b)` is a free choice, `<x/y/z>` a choice by politeness level, `{t}` a slot. A *pattern* is an
expanded family whose slots are still open: it is what the train and the test side must not share.
"""

import random
import re

LEVELS: dict[str, tuple[str, ...]] = {
    "ja": ("casual", "polite", "keigo"),
    "en": ("casual", "formal"),
}

_CHOICE = re.compile(r"\(([^()]*)\)")
_LEVEL = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{(\w+)\}")


def expand(family: str, level: int, rng: random.Random) -> str:
    """Draws one pattern of `family` at politeness `level`."""
    text = _LEVEL.sub(lambda m: _at_level(m.group(1).split("/"), level), family)
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), text)
    return re.sub(r" +", " ", text).strip()


def _at_level(options: list[str], level: int) -> str:
    return options[min(level, len(options) - 1)]


def slots_of(text: str) -> set[str]:
    """The names of the open slots in `text`."""
    return set(_SLOT.findall(text))


_KANJI_NUMBERS = "一二三四五六七八九十"
_JA_PLACES = ["北海道", "沖縄", "大阪", "福岡", "東京", "京都", "アメリカ", "台湾", "フランス", "韓国"]
_EN_PLACES = ["canada", "france", "germany", "australia", "the us", "tokyo", "osaka", "london",
              "brazil", "singapore"]


def fill(pattern: str, lang: str, titles: list[tuple[str, str]], themes: list[str],
         rng: random.Random) -> str:
    """Fills the slots of `pattern`; `{t}` comes from `titles`, `{g}` from `themes`."""
    draw = _fill_ja if lang == "ja" else _fill_en
    return _SLOT.sub(lambda m: draw(m.group(1), titles, themes, rng), pattern)


def _fill_ja(slot: str, titles: list[tuple[str, str]], themes: list[str],
             rng: random.Random) -> str:
    number = rng.randint(1, 10)
    if slot == "t":
        return rng.choice(["「{}」", "『{}』", "{}"]).format(rng.choice(titles)[0])
    if slot == "v":
        return rng.choice([f"{number}巻", f"第{number}巻", f"{_KANJI_NUMBERS[number - 1]}巻"])
    if slot == "o":
        code = rng.randint(1000, 99999)
        return rng.choice([f"注文番号{code}", f"#A{code}", f"注文{code}", f"{code}番"])
    values = {
        "past": ["昨日", "先週", "三日前", "先月", "月曜日に", "おととい", "今朝"],
        "p": _JA_PLACES,
        "g": themes,
        "n": ["二", "三", "五", "十", "2", "4"],
    }
    return rng.choice(values[slot])


def _fill_en(slot: str, titles: list[tuple[str, str]], themes: list[str],
             rng: random.Random) -> str:
    number = rng.randint(1, 12)
    if slot == "t":
        title = rng.choice(titles)[1]
        return rng.choice([title, title.lower(), f'"{title}"'])
    if slot == "v":
        return rng.choice([f"volume {number}", f"vol. {number}", f"vol {number}", f"book {number}"])
    if slot == "o":
        code = rng.randint(1000, 99999)
        return rng.choice([f"#A{code}", f"{code}", f"number {code}"])
    values = {
        "past": ["yesterday", "last week", "three days ago", "on monday", "last month"],
        "soon": ["tomorrow", "on friday", "this week", "yesterday"],
        "p": _EN_PLACES,
        "g": themes,
        "n": ["two", "three", "five", "2", "4", "10"],
    }
    return rng.choice(values[slot])


# Openers and closers around a sentence, by level: (train, test). The sides share none.
_OPENERS: dict[str, tuple[list[list[str]], list[list[str]]]] = {
    "ja": ([["ねえ、", "あのさ、", "ちょっと聞きたいんだけど、", "質問！"],
            ["すみません、", "こんにちは、", "質問です。", "お尋ねします。", "あの、", "初めまして。"],
            ["お世話になっております。", "恐れ入りますが、", "大変恐縮ですが、", "失礼いたします。"]],
           [["ねえねえ、", "ちょっといい？"], ["すいません、", "こんばんは、", "一つ質問です、"],
            ["いつもお世話になっております。", "お忙しいところ恐れ入りますが、"]]),
    "en": ([["hey, ", "hi, ", "yo ", "um ", "quick question: ", "so "],
            ["hello, ", "excuse me, ", "good morning, ", "dear shop, ", "sorry to bother you, "]],
           [["hey there, ", "ok "], ["good evening, ", "dear team, ", "pardon me, "]]),
}
_CLOSERS: dict[str, tuple[list[list[str]], list[list[str]]]] = {
    "ja": ([["頼むね", "よろしく", "急いでる"],
            ["よろしくお願いします。", "お願いします。", "急いでいます。"],
            ["何卒よろしくお願い申し上げます。", "お手数をおかけいたします。"]],
           [["よろしくね", "早めに頼む"], ["どうぞよろしくお願いします。"],
            ["お手数ですが、よろしくお願いいたします。"]]),
    "en": ([[" thx", " plz", " asap"], [" thank you.", " thanks in advance.", " kind regards."]],
           [[" ta", " pls"], [" many thanks.", " best regards."]]),
}


def frame(text: str, lang: str, level: int, side: str, rng: random.Random) -> str:
    """Sometimes puts an opener before `text` and a closer after it."""
    at = 0 if side == "train" else 1
    if rng.random() < 0.3:
        text = rng.choice(_OPENERS[lang][at][level]) + text
    if rng.random() < 0.15:
        if lang == "ja" and text[-1] not in "。！？":
            text += "。"
        text += rng.choice(_CLOSERS[lang][at][level])
    return text


def frames() -> tuple[set[str], set[str]]:
    """All openers and closers of the train side and of the test side."""
    sides: tuple[set[str], set[str]] = (set(), set())
    for table in (_OPENERS, _CLOSERS):
        for pair in table.values():
            for side, levels in zip(sides, pair):
                side.update(text for level in levels for text in level)
    return sides


_READINGS = {"注文": "ちゅうもん", "返品": "へんぴん", "送料": "そうりょう", "届": "とど",
             "発送": "はっそう", "予約": "よやく", "在庫": "ざいこ", "教え": "おしえ", "買": "か",
             "値段": "ねだん", "支払": "しはら", "漫画": "まんが", "読": "よ", "話": "はな",
             "面白": "おもしろ", "売": "う", "出来": "でき", "安": "やす", "今": "いま"}


def add_typos(text: str, lang: str, rng: random.Random) -> str:
    """Leaves `text` as it is most of the time, else makes one or two slips of the hand."""
    if rng.random() < 0.7:
        return text
    for _ in range(rng.choice([1, 1, 2])):
        text = _slip_ja(text, rng) if lang == "ja" else _slip_en(text, rng)
    return text


def _slip_en(text: str, rng: random.Random) -> str:
    letters = [i for i, c in enumerate(text) if c.isalpha()]
    if len(letters) < 4:
        return text
    at = rng.choice(letters[1:])
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1:]
    if kind == 1 and at + 1 < len(text):
        return text[:at] + text[at + 1] + text[at] + text[at + 2:]
    if kind == 2:
        return text[:at] + text[at] + text[at:]
    return text[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1:]


def _slip_ja(text: str, rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        known = [k for k in _READINGS if k in text]
        if known:
            word = rng.choice(known)
            return text.replace(word, _READINGS[word])
    kana = [i for i, c in enumerate(text) if "ぁ" <= c <= "ヶ"]
    if len(kana) < 4:
        return text
    at = rng.choice(kana)
    if kind == 1:
        return text[:at] + text[at + 1:]
    if kind == 2 and at + 1 < len(text):
        return text[:at] + text[at + 1] + text[at] + text[at + 2:]
    return text.rstrip("。？！?")
