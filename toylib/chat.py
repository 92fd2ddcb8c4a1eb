"""Support pairs and prompts for a model with a chat template of its own, and the marks that any model's replies can get."""

from __future__ import annotations

from toylib.judge import EMPATHY, NEXT_STEP, OWNERSHIP, facts_hold, is_whole


def message_of(prompt: str) -> str:
    """What the customer wrote, out of a prompt of the shipped form "Customer: …\\nAgent:"."""
    return prompt.removeprefix("Customer: ").removesuffix("\nAgent:")


def as_prompt(message: str, tokenizer) -> str:
    """A customer's message as the model's own chat template puts it, up to where the model has to answer.

    `ValueError` for a tokenizer without a template.
    """
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template: choose an instruct model, or set tokenizer.chat_template")
    return _rendered([{"role": "user", "content": message}], tokenizer, add_generation_prompt=True)


def as_chat(pairs, tokenizer):
    """Shipped pairs as `prompt`, `chosen`, `rejected` texts for the model of `tokenizer`, a `datasets.Dataset`.

    A reply begins with a space where the template leaves the line open ("Agent:"), and without one on a new line.
    """
    from datasets import Dataset

    rows = []
    for pair in pairs:
        prompt = as_prompt(message_of(pair["prompt"]), tokenizer)
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
        prompt = _rendered(pair["prompt"], tokenizer, add_generation_prompt=True)
        row = {"prompt": prompt}
        for name in ("chosen", "rejected"):
            whole = _rendered(pair["prompt"] + pair[name], tokenizer)
            if not whole.startswith(prompt):
                raise ValueError(
                    "the tokenizer's chat template does not keep the prompt at the start of prompt + reply"
                )
            row[name] = whole.removeprefix(prompt).rstrip("\n").removesuffix(tokenizer.eos_token)
        rows.append(row)
    return Dataset.from_list(rows)


def _rendered(messages, tokenizer, **how) -> str:
    """The template's text, without the beginning-of-sequence token where the tokenizer adds one by itself."""
    text, bos = tokenizer.apply_chat_template(messages, tokenize=False, **how), tokenizer.bos_token or ""
    return text.removeprefix(bos) if tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id else text


def marks(messages, replies):
    """What can be said of a support reply in anyone's English: a DataFrame, one row a reply, values 0 or 1 but the last two.

    `whole` sentences, at most six; `facts`: no order number, product or name that the customer did not mention;
    `empathy`, `ownership`, `next_step` as in `judge`; `words`; and `mark` = whole · facts · the mean of those three.
    `judge` asks for the shop's own words besides, which only the shipped model has.
    """
    import re

    import pandas

    rows = []
    for message, reply in zip(messages, replies, strict=True):
        row = {"whole": is_whole(reply), "facts": facts_hold(message, reply)}
        row |= {"empathy": re.search(EMPATHY, reply, re.IGNORECASE), "ownership": re.search(OWNERSHIP, reply)}
        row = {name: float(bool(value)) for name, value in (row | {"next_step": re.search(NEXT_STEP, reply)}).items()}
        mark = row["whole"] * row["facts"] * (row["empathy"] + row["ownership"] + row["next_step"]) / 3
        rows.append(row | {"words": len(reply.split()), "mark": mark})
    return pandas.DataFrame(rows)
