"""From the hand-written text in data/text/ to customers' messages and the shop's replies, drawn by a seed.

Nothing here writes language: it fills slots, joins sentences in the order the text files promise to be safe, and, for
training only, roughens customers' messages the way people type.
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
    """Order numbers that no training text contains: one in seven."""
    return order % 7 == 3


def draw_order(rng: random.Random, held_out: bool) -> str:
    while True:
        order = rng.randint(1000, 9999)
        if is_held_out(order) == held_out:
            return str(order)


def slots_in(text: str) -> set[str]:
    return {slot for slot in SLOTS if "{" + slot + "}" in text}


def as_prompt(message: str) -> str:
    return f"Customer: {message}\nAgent:"


def phrasing_of(prompt: str) -> str:
    """A hand-written prompt as a phrasing: its order number and name become slots again (a product stays as it is)."""
    message = message_of(prompt)
    for slot, value in find_slots(message):
        if slot != "product":
            message = re.sub(rf"\b{value}\b", "{" + slot + "}", message, flags=re.IGNORECASE)
    return message


def customer(rng: random.Random, phrasing: str, held_out=False, order_share=0.55) -> str:
    """A customer's message around one phrasing: an opener, a tail, an order number now and then, slots filled."""
    parts = [phrasing]
    if rng.random() < 0.5:
        parts.insert(0, rng.choice([line for line in COMMON["openers"] if not slots_in(line) & slots_in(phrasing)]))
    wants_order = "{order}" not in phrasing and rng.random() < order_share
    if wants_order or rng.random() < 0.35:
        said = slots_in(" ".join(parts))
        tails = [line for line in COMMON["tails"] if ("{order}" in line) == wants_order and not slots_in(line) & said]
        parts.append(rng.choice(tails))
    if parts[0].endswith(",") and not parts[1].startswith(("I ", "I'", "{")):
        parts[1] = parts[1][0].lower() + parts[1][1:]
    return " ".join(parts).format(
        product=rng.choice(COMMON["products"]), order=draw_order(rng, held_out), name=rng.choice(COMMON["names"])
    )


def values_said(message: str) -> dict[str, str]:
    """What a reply may quote: the order number, name and product that the message gives, each if it gives just one."""
    found = {slot: {value for kind, value in find_slots(message) if kind == slot} for slot in SLOTS}
    values = {slot: next(iter(given)) for slot, given in found.items() if len(given) == 1}
    return {slot: value.title() if slot == "name" else value for slot, value in values.items()}


def roughen(rng: random.Random, message: str, keep: set[str]) -> str:
    """The message as a hurried person types it: lower case, no full stops, a word missing. Slot values stay whole."""
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
    """A prompt with an order number, and perhaps a product and a name, and a reply that says them back: practice in copying."""
    things = [f"order {draw_order(rng, held_out=False)}"]
    if rng.random() < 0.5:
        things.append(f"the {rng.choice(COMMON['products'])}")
    if rng.random() < 0.5:
        things.append(rng.choice(COMMON["names"]))
    rng.shuffle(things)
    said = ", ".join(things)
    asked = said.replace("order ", rng.choice(("order ", "#", "order number ", "order no. ")))
    how = rng.choice(("Please confirm", "Can you repeat", "Read back to me", "Please note"))
    return as_prompt(f"{how} {asked}."), f" Confirmed: {said}.", -100  # -100: of no intent


def choose(rng: random.Random, lines: list[str], values: dict) -> str:
    """One line that needs no slot the customer did not give; one that quotes the order, two times in three."""
    usable = [line for line in lines if slots_in(line) <= values.keys()]
    quoting = [line for line in usable if "{order}" in line]
    return rng.choice(quoting if quoting and rng.random() < 0.67 else usable)


def reply(rng: random.Random, intent: str, style: str, values: dict) -> str:
    """A reply of one of the four styles, with its leading space."""
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
    return rng.choices(list(styles), weights=styles.values())[0]
