"""A strict judge of replies in the small world of customer support.

The judge knows the words that the shop uses (data/text/ and the hand-written pairs) and no other English. It tells
whether a reply of the support model is whole, on topic, true to the prompt and helpful.
"""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache

from toylib.preferences import DATA, read_file

EMPATHY = r"\b(sorry|apolog\w+|thank|thanks|understand|frustrating|annoying|disappointing|I can see)\b"
OWNERSHIP = r"\b(I'll|I will|I've|I have|I'm (?!sorry|so sorry)\w+ing|Let me|let me)\b"
NEXT_STEP = (
    r"\b(today|tonight|tomorrow|this week|right now|right away|at once|by \w+day|by noon|by email|by text|email you|"
    r"text you|email|a text|inbox|within|in (about )?(a few |an? |one |two |three |five |ten )(minutes?|hours?|days?|weeks?|"
    r"moments?)|an hour|morning|afternoon|evening|shortly)\b"
)
MAX_SENTENCES = 6


def judge(prompts, replies, intents):
    """Score replies. Return a DataFrame with one row per reply, in order.

    `prompts`, `replies` and `intents` are equally long lists of strings. Raises `ValueError` if they are not, and for an
    unknown intent. The columns are floats, and the first six are 0 or 1:

    - `fluent`: whole sentences, at most six, no sentence twice, a greeting only first and a closing only last. The
      shop's own text has every run of three words, and the text of a single intent and register (kind or cold) has at
      least nine tenths of them, so that the sentences belong together and do not contradict each other;
    - `on_topic`: the intent of the prompt has nine tenths of them;
    - `facts`: the prompt has every order number, product and name of the reply;
    - `empathy`, `ownership`, `next_step`: the reply acknowledges, says "I'll …", names a time or a way to hear back;
    - `score`, from 0 to 1: fluent · on_topic · facts · (1 + empathy + ownership + next_step) / 4;
    - `words`: their number.
    """
    import pandas

    if not len(prompts) == len(replies) == len(intents):
        raise ValueError(
            f"got {len(prompts)} prompts, {len(replies)} replies and {len(intents)} intents: as many of each"
        )
    known = sorted({intent for intent, _ in _shop_text()})
    unknown = sorted(set(intents) - set(known))
    if unknown:
        raise ValueError(f"unknown intent {unknown[0]!r}: the judge knows {', '.join(known)}")
    rows = []
    for prompt, reply, intent in zip(prompts, replies, intents, strict=True):
        known_words, coverage = topic_coverage(reply)
        row = {
            "fluent": is_whole(reply) and known_words and max(coverage.values()) >= 0.9,
            "on_topic": coverage[intent] >= 0.9,
            "facts": facts_hold(prompt, reply),
            **manners(reply),
        }
        row["score"] = row["fluent"] * row["on_topic"] * row["facts"]
        row["score"] *= (1 + row["empathy"] + row["ownership"] + row["next_step"]) / 4
        rows.append({name: float(value) for name, value in row.items()} | {"words": len(reply.split())})
    return pandas.DataFrame(rows)


def brief_score(judged, per_word):
    """Return a score for each row of `judge`'s table that asks for short replies too: its score, minus `per_word` a word.

    The judge's score already joins politeness, topic and facts. The style pairs prefer long replies.
    """
    return judged["score"] - per_word * judged["words"]


def manners(reply: str) -> dict[str, bool]:
    """Return whether a reply acknowledges, says "I'll …", and names a time or a way to hear back, by name."""
    return {
        "empathy": bool(re.search(EMPATHY, reply, re.IGNORECASE)),
        "ownership": bool(re.search(OWNERSHIP, reply)),
        "next_step": bool(re.search(NEXT_STEP, reply)),
    }


def is_whole(reply: str) -> bool:
    """Return whether a reply is one to six complete sentences in a possible order, without a repeated one."""
    sentences = split_sentences(reply)
    shaped = not re.search(r"[{}<>]", reply)  # a slot that was not filled
    shaped = shaped and all(re.match(r"[A-Z].*[a-z0-9][.!?]$", sentence) for sentence in sentences)
    normalised = [" ".join(_words(sentence)) for sentence in sentences]
    greetings, closings = ({" ".join(_words(line)) for line in _common()[part]} for part in ("greetings", "closings"))
    ordered = not greetings & set(normalised[1:]) and not closings & set(normalised[:-1])
    distinct = len(set(normalised)) == len(normalised)
    return shaped and ordered and distinct and 1 <= len(normalised) <= MAX_SENTENCES


def topic_coverage(reply: str) -> tuple[bool, dict[str, float]]:
    """Return whether every word trigram of the reply is known, and by intent the largest share that a register of it has."""
    trigrams = [gram for sentence in split_sentences(reply) for gram in _trigrams(sentence)]
    tables, shares = _shop_text(), {}
    for (intent, _), table in tables.items():
        share = sum(gram in table for gram in trigrams) / max(1, len(trigrams))
        shares[intent] = max(share, shares.get(intent, 0.0))
    return all(any(gram in table for table in tables.values()) for gram in trigrams), shares


def facts_hold(prompt: str, reply: str) -> bool:
    """Return whether the prompt has every number, product and name that the reply mentions."""
    return set(find_slots(reply)) <= set(find_slots(prompt))


def find_slots(text: str) -> list[tuple[str, str]]:
    """Return the order numbers, products and names in a text, in order: `("order" | "product" | "name", value)`."""
    return [(match.lastgroup, match.group().lower()) for match in _slot_pattern().finditer(text)]


def split_sentences(text: str) -> list[str]:
    """Split a text after every full stop, exclamation or question mark that a space or newline follows."""
    return re.split(r"(?<=[.!?])\s+", text.strip())


@lru_cache(maxsize=1)
def _shop_text() -> dict[tuple[str, str], set]:
    """Return the word trigrams of the shop's text (templates, hand-written chosen replies) by intent and register."""
    shared = [*_common()["greetings"], *_common()["closings"]]
    text = {}
    for path in sorted((DATA / "text").glob("*.toml")):
        if path.stem != "common":
            lines = tomllib.loads(path.read_text(encoding="utf-8"))
            text[path.stem, "kind"] = shared + lines["empathy"] + lines["action"] + lines["next_step"] + lines["brief"]
            text[path.stem, "cold"] = lines["curt"] + lines["long_bad"]
    for path in sorted((DATA / "handwritten").glob("*.jsonl")):
        for pair in read_file(path):
            text[pair["intent"], "kind"].append(pair["chosen"])
    return {
        key: {gram for reply in replies for sentence in split_sentences(reply) for gram in _trigrams(sentence)}
        for key, replies in text.items()
    }


@lru_cache(maxsize=1)
def _common() -> dict:
    return tomllib.loads((DATA / "text" / "common.toml").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _slot_pattern() -> re.Pattern:
    things = sorted(_common()["products"], key=len, reverse=True)
    return re.compile(
        rf"(?i:\b(?P<product>{'|'.join(things)})\b)|\b(?P<name>{'|'.join(_common()['names'])})\b|(?P<order>\d+)"
    )


def _words(text: str) -> list[str]:
    blanked = _slot_pattern().sub(lambda match: f"<{match.lastgroup}>", text.replace("{order}", "0"))
    blanked = blanked.replace("{product}", "<product>").replace("{name}", "<name>")
    return re.findall(r"<\w+>|[a-z]+(?:['-][a-z]+)*|[^\sa-z]", blanked.lower())


def _trigrams(sentence: str) -> list[tuple[str, str, str]]:
    words = ["<s>", *_words(sentence), "</s>"]
    return list(zip(words, words[1:], words[2:], strict=False)) or [("<s>", *words[1:2], "</s>")]
