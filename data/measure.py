"""Measure what the support model can do, and write it into data/README.md between its two markers."""

from __future__ import annotations

import random

import compose

from toylib.evaluation.judge import find_slots, judge
from toylib.evaluation.second_opinion import second_opinion
from toylib.preferences import DATA, load_preferences, load_prompts, read_file
from toylib.replies import sample_replies

BEGIN, END = "<!-- measured by data/build.py: begin -->", "<!-- measured by data/build.py: end -->"
SEEDS = (0, 1, 2)


def write_card(model, tokenizer):
    """Measure the model and the pairs, print the tables, and put them into data/README.md."""
    text = "\n\n".join(
        (model_table(model, tokenizer), order_numbers(model, tokenizer), pair_table(), labels_agreement())
    )
    print(text)
    card = DATA / "README.md"
    before, rest = card.read_text(encoding="utf-8").split(BEGIN)
    card.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def model_table(model, tokenizer):
    """Return the table of what the judge says of sampled replies, by set of prompts."""
    lines = [
        "| sampled at temperature 1, three seeds | prompts | fluent | right intent | facts right | mean words |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for split, what in (("test", "hand-written test prompts"), ("heldout", "held-out generated phrasings")):
        rows = load_prompts(split)
        prompts, intents = list(rows["prompt"]), list(rows["intent"])
        seen = [judge(prompts, sample_replies(model, tokenizer, prompts, seed=s).texts, intents) for s in SEEDS]
        means = sum(table.mean() for table in seen) / len(seen)
        values = " | ".join(f"{means[name]:.3f}" for name in ("fluent", "on_topic", "facts"))
        lines.append(f"| {what} | {len(prompts)} | {values} | {means['words']:.1f} |")
    return "\n".join(lines)


def order_numbers(model, tokenizer, count=300):
    """Return how often a reply quotes an order number that no training text has, and how often the right one."""
    rng = random.Random(7)
    prompts = []
    while len(prompts) < count:
        lines = compose.INTENTS[rng.choice(list(compose.INTENTS))]
        message = compose.customer(rng, rng.choice(lines["test"]), held_out=True, order_share=1.0)
        if "order" in compose.values_given(message):
            prompts.append(compose.shop_prompt(message))
    quoted = exact = 0
    for prompt, text in zip(prompts, sample_replies(model, tokenizer, prompts, seed=11).texts, strict=True):
        numbers = {slot for slot in find_slots(text) if slot[0] == "order"}
        quoted += bool(numbers)
        exact += bool(numbers) and numbers <= set(find_slots(prompt))
    return (
        f"Of {count} prompts with an order number that no training text has, {quoted} ({quoted / count:.0%}) were "
        f"answered with an order number; {exact} of these ({exact / max(1, quoted):.1%}) with the right one."
    )


def pair_table():
    """Return the table of the shipped pairs: their number, lengths and scores by the judge."""
    lines = [
        "| pairs | split | rows | chosen longer than rejected | mean words, chosen / rejected | judge's score, chosen / rejected |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for source in ("support", "handwritten", "templated"):
        for path in sorted((DATA / source).glob("*.jsonl")):
            rows = read_file(path)
            prompts, intents = [row["prompt"] for row in rows], [row["intent"] for row in rows]
            chosen, rejected = (judge(prompts, [row[key] for row in rows], intents) for key in ("chosen", "rejected"))
            longer = sum(chosen["words"] > rejected["words"]) / len(rows)
            lines.append(
                f"| {source} | {path.stem} | {len(rows)} | {longer:.2f} | {chosen['words'].mean():.1f} / "
                f"{rejected['words'].mean():.1f} | {chosen['score'].mean():.2f} / {rejected['score'].mean():.2f} |"
            )
    pairs = load_preferences("handwritten", "test")
    ahead = zip(second_opinion(pairs["chosen"]), second_opinion(pairs["rejected"]), strict=True)
    right = sum(chosen > rejected for chosen, rejected in ahead)
    lines.append(
        f"\nThe second opinion prefers the chosen reply in {right} of {len(pairs)} held-out hand-written pairs."
    )
    return "\n".join(lines)


def labels_agreement():
    """Return how often the judge agrees with the labels in data/labels.jsonl."""
    rows = read_file(DATA / "labels.jsonl")
    seen = judge([row["prompt"] for row in rows], [row["reply"] for row in rows], [row["intent"] for row in rows])
    parts = []
    for name, what in (("fluent", "fluent"), ("on_topic", "right intent")):
        same = sum(bool(judged) == row[name] for judged, row in zip(seen[name], rows, strict=True))
        by_hand = sum(row[name] for row in rows)
        parts.append(
            f"{what}: {same} of {len(rows)} (the labels have {by_hand} yes, the judge {int(seen[name].sum())})"
        )
    return f"{len(rows)} replies read and labelled one by one, blind to the judge; agreement on {'; on '.join(parts)}."
