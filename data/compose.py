"""Compose customers' messages and the shop's replies from the hand-written text in data/text/, drawn by a seed.

The code fills slots and joins sentences in an order that the text files keep safe. For training only, it roughens
customers' messages the way people type.
"""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

from toylib.evaluation.chat import message_of
from toylib.evaluation.judge import find_slots

TEXT = Path(__file__).resolve().parent / "text"
COMMON = tomllib.loads((TEXT / "common.toml").read_text(encoding="utf-8"))
INTENTS = {
    path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in sorted(TEXT.glob("*.toml"))
    if path.stem != "common"
}
# How the model talks before DPO, and the mix that teaches it the longer, kinder replies first.
STYLES = {"curt": 0.55, "brief": 0.12, "helpful": 0.18, "long_bad": 0.15}
KIND_STYLES = {"curt": 0.20, "brief": 0.30, "helpful": 0.40, "long_bad": 0.10}
SLOTS = ("product", "order", "name")


def is_held_out(order: int) -> bool:
    """Return whether no training text contains the order number. That holds for one in seven."""
    return order % 7 == 3


def draw_order(rng: random.Random, held_out: bool) -> str:
    """Draw an order number of four digits, one that is held out or one that is not."""
    while True:
        order = rng.randint(1000, 9999)
        if is_held_out(order) == held_out:
            return str(order)


def slots_in(text: str) -> set[str]:
    """Return the names of the slots, such as `{order}`, in a text."""
    return {slot for slot in SLOTS if "{" + slot + "}" in text}


def shop_prompt(message: str) -> str:
    """Return a customer's message as a prompt of the shipped form."""
    return f"Customer: {message}\nAgent:"


def phrasing_of(prompt: str) -> str:
    """Return a hand-written prompt as a phrasing: its order number and name become slots, a product stays as it is."""
    message = message_of(prompt)
    for slot, value in find_slots(message):
        if slot != "product":
            message = re.sub(rf"\b{value}\b", "{" + slot + "}", message, flags=re.IGNORECASE)
    return message


def customer(rng: random.Random, phrasing: str, held_out=False, order_share=0.55) -> str:
    """Draw a customer's message around a phrasing, perhaps with an opener, a tail and an order number. Fill its slots."""
    parts = [phrasing]
    if rng.random() < 0.5:
        parts.insert(0, rng.choice([line for line in COMMON["openers"] if not slots_in(line) & slots_in(phrasing)]))
    wants_order = "{order}" not in phrasing and rng.random() < order_share
    if wants_order or rng.random() < 0.35:
        used = slots_in(" ".join(parts))
        tails = [line for line in COMMON["tails"] if ("{order}" in line) == wants_order and not slots_in(line) & used]
        parts.append(rng.choice(tails))
    if parts[0].endswith(",") and not parts[1].startswith(("I ", "I'", "{")):
        parts[1] = parts[1][0].lower() + parts[1][1:]
    return " ".join(parts).format(
        product=rng.choice(COMMON["products"]), order=draw_order(rng, held_out), name=rng.choice(COMMON["names"])
    )


def values_given(message: str) -> dict[str, str]:
    """Return the order number, name and product that a reply may quote: each if the message gives exactly one."""
    found = {slot: {value for kind, value in find_slots(message) if kind == slot} for slot in SLOTS}
    values = {slot: next(iter(given)) for slot, given in found.items() if len(given) == 1}
    return {slot: value.title() if slot == "name" else value for slot, value in values.items()}


def roughen(rng: random.Random, message: str, keep: set[str]) -> str:
    """Return the message as a hurried person types it: lower case, no full stop, words missing. Words in `keep` stay."""
    if rng.random() < 0.25:
        words = message.split(" ")
        message = " ".join(word if word.strip(".,!?") in keep else word.lower() for word in words)
    if rng.random() < 0.25:
        message = message.rstrip(".!?")
    if rng.random() < 0.35:
        words = message.split(" ")
        share = rng.choice((0.08, 0.2))
        kept = [word for word in words if word.strip("#.,!?") in keep or rng.random() > share]
        message = " ".join(kept) or message
    return message


def copy_drill(rng: random.Random) -> tuple[str, str, int]:
    """Draw a copying exercise: `(prompt, reply, -100)`, whose reply repeats an order number and perhaps more."""
    things = [f"order {draw_order(rng, held_out=False)}"]
    if rng.random() < 0.5:
        things.append(f"the {rng.choice(COMMON['products'])}")
    if rng.random() < 0.5:
        things.append(rng.choice(COMMON["names"]))
    rng.shuffle(things)
    listed = ", ".join(things)
    asked = listed.replace("order ", rng.choice(("order ", "#", "order number ", "order no. ")))
    how = rng.choice(("Please confirm", "Can you repeat", "Read back to me", "Please note"))
    return shop_prompt(f"{how} {asked}."), f" Confirmed: {listed}.", -100  # -100 stands for no intent


def choose(rng: random.Random, lines: list[str], values: dict) -> str:
    """Draw a line whose slots all have `values`. Two times in three it quotes the order number, if there is one."""
    usable = [line for line in lines if slots_in(line) <= values.keys()]
    quoting = [line for line in usable if "{order}" in line]
    return rng.choice(quoting if quoting and rng.random() < 0.67 else usable)


def reply(rng: random.Random, intent: str, style: str, values: dict) -> str:
    """Draw a reply in one of the four styles, with its leading space."""
    lines = INTENTS[intent]
    if style in ("curt", "brief"):
        parts = [choose(rng, lines[style], values)]
    elif style == "long_bad":
        usable = [line for line in lines["long_bad"] if slots_in(line) <= values.keys()]
        picked = set(rng.sample(range(len(usable)), rng.choice((3, 3, 4))))
        parts = [line for i, line in enumerate(usable) if i in picked]
    else:
        parts = [choose(rng, lines["empathy"], values), choose(rng, lines["action"], values)]
        if rng.random() < 0.85:
            parts.append(choose(rng, lines["next_step"], values))
        if "name" in values and rng.random() < 0.6:
            parts.insert(0, rng.choice(COMMON["greetings"]))
        if rng.random() < 0.2:
            parts.append(rng.choice(COMMON["closings"]))
    return " " + " ".join(parts).format(**values)


def draw_style(rng: random.Random, styles: dict[str, float]) -> str:
    """Draw a style by its weight."""
    return rng.choices(list(styles), weights=styles.values())[0]
