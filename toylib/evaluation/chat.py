"""Support pairs and prompts for a model with a chat template of its own, and the marks that any model's replies can get."""

from __future__ import annotations

import os

from toylib.evaluation.judge import facts_hold, is_whole, manners
from toylib.preferences import FIELDS
from toylib.tokens import render_pair


def message_of(prompt: str) -> str:
    """What the customer wrote, out of a prompt of the shipped form "Customer: …\\nAgent:"."""
    return prompt.removeprefix("Customer: ").removesuffix("\nAgent:")


def chat_prompt(message: str, tokenizer) -> str:
    """A customer's message as the model's own chat template puts it, up to where the model has to answer.

    `ValueError` for a tokenizer without a template.
    """
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template: choose an instruct model, or set tokenizer.chat_template")
    messages = [{"role": "user", "content": message}]
    return without_bos(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), tokenizer)


def as_chat(pairs, tokenizer):
    """Shipped pairs as `prompt`, `chosen`, `rejected` texts for the model of `tokenizer`, a `datasets.Dataset`.

    A reply begins with a space where the template leaves the line open ("Agent:"), and without one on a new line.
    """
    from datasets import Dataset

    rows = []
    for pair in pairs:
        prompt = chat_prompt(message_of(pair["prompt"]), tokenizer)
        lead = "" if prompt[-1:].isspace() else " "
        rows.append({"prompt": prompt} | {name: lead + pair[name].strip() for name in ("chosen", "rejected")})
    return Dataset.from_list(rows)


def as_text(pairs, tokenizer):
    """Pairs of message lists as texts, rendered by the chat template; pairs of texts as they are."""
    from datasets import Dataset

    if isinstance(pairs[0]["prompt"], str):
        return pairs
    rows = []
    for pair in pairs:
        prompt, *wholes = render_pair(pair, tokenizer)
        start = len(os.path.commonprefix([prompt, *wholes]))
        replies = [whole[start:].rstrip().removesuffix(tokenizer.eos_token) for whole in wholes]
        texts = [without_bos(prompt[:start], tokenizer), *replies]
        rows.append(dict(zip(FIELDS, texts, strict=True)))
    return Dataset.from_list(rows)


def without_bos(text, tokenizer) -> str:
    """A rendered text without the beginning-of-sequence token where the tokenizer will add one by itself."""
    adds = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(tokenizer.bos_token) if adds else text


def marks(messages, replies):
    """What can be said of a support reply in anyone's English: a DataFrame, one row a reply, values 0 or 1 but the last two.

    `whole` sentences, at most six; `facts`: no order number, product or name that the customer did not mention;
    `empathy`, `ownership`, `next_step` as in `judge`; `words`; and `mark` = whole · facts · the mean of those three.
    `judge` asks for the shop's own words besides, which only the shipped model has.
    """
    import pandas

    rows = []
    for message, reply in zip(messages, replies, strict=True):
        shown = manners(reply)
        row = {"whole": is_whole(reply), "facts": facts_hold(message, reply)} | shown
        row = {name: float(value) for name, value in row.items()}
        mark = row["whole"] * row["facts"] * sum(shown.values()) / 3
        rows.append(row | {"words": len(reply.split()), "mark": mark})
    return pandas.DataFrame(rows)
