"""Messages to text: what the chat template makes of the prompt and the replies of a pair."""

from __future__ import annotations

import json
import os

from jinja2 import TemplateError

from toylib.engine.messages import ROLES
from toylib.engine.notices import print_line
from toylib.preferences import FIELDS

KNOWN_ROLES = (*ROLES, "function")  # data sets that `load_preferences` has not read may have the old name of tool turns


def _check_template(tokenizer):
    if not tokenizer.chat_template:
        raise ValueError("the pairs are lists of messages, but the tokenizer has no chat template to render them")


def render(messages, tokenizer, **settings) -> str:
    """Return messages as one text, by the chat template. Raises `ValueError` with the template's own words."""
    _check_template(tokenizer)
    if not isinstance(messages, (list, tuple)) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("a prompt must be a text or a list of messages, which are dicts with a role and a content")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **settings)
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as problem:
        words = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise ValueError(f"the chat template refuses these messages: {words}") from None


def render_pair(pair, tokenizer) -> list[str]:
    """Return three texts of a pair of message lists: the prompt, the prompt with chosen, the prompt with rejected."""
    prompt, *replies = (pair[field] for field in FIELDS)
    _check_template(tokenizer)
    messages = [message for part in (prompt, *replies) for message in part]
    if not all((prompt, *replies)) or not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        raise ValueError("prompt, chosen and rejected need a message each, and every message a role")
    unknown = {message["role"] for message in messages} - set(KNOWN_ROLES)
    if unknown:
        raise ValueError(f"the role {min(unknown)!r} is unknown: the roles are {', '.join(KNOWN_ROLES)}")
    if prompt[-1]["role"] == "assistant":
        raise ValueError("the prompt ends in an assistant's turn: it has to end where the assistant answers")
    if any(reply[-1]["role"] != "assistant" for reply in replies):
        raise ValueError("chosen and rejected have to end in an assistant's turn")
    tools, settings = (
        json.loads(v) if isinstance(v, str) else v for v in map(pair.get, ("tools", "chat_template_kwargs"))
    )
    if not isinstance(settings or {}, dict):
        raise ValueError(f"chat_template_kwargs must be a dict, got {type(settings).__name__}")
    fixed = {"add_generation_prompt", "continue_final_message", "conversation", "tokenize", "tools"} & set(
        settings or ()
    )
    if fixed:
        raise ValueError(f"chat_template_kwargs may not set {min(fixed)!r}, which is set for each text of a pair")
    settings = {"tools": tools or None} | {k: v for k, v in (settings or {}).items() if v is not None}
    texts = [render(prompt + reply, tokenizer, **settings) for reply in replies]
    texts = [render(prompt, tokenizer, add_generation_prompt=True, **settings), *texts]
    if not os.path.commonprefix(texts):
        raise ValueError("the tokenizer's chat template does not keep the prompt at the start of prompt + reply")
    return texts


def template_marks(tokenizer):
    """Return `(before reply, end of turn)`: what the chat template writes around a reply, without whitespace, "" if unknown."""
    turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}]
    try:
        before = render(turns[:1], tokenizer, add_generation_prompt=True).partition("QUESTION")[2]
        return before.strip(), render(turns, tokenizer).partition("ANSWER")[2].strip()
    except ValueError:
        return "", ""


def plain_text_note(prompt, before_reply) -> None:
    """Print a line if `prompt` is a text without what the chat template would write before a reply."""
    if isinstance(prompt, str) and before_reply not in prompt:
        print_line("the prompts are plain text: they are used as they are, and no chat template is applied")


def print_what_was_cut(kept, systems, dropped, seen, max_length, least) -> None:
    """Print how many prompts were cut, what is `kept` of them (tokens), and how many pairs were dropped."""
    if kept:
        lost = f"; {systems} of them lost their system turn or a part of it" if systems else ""
        text = f"{len(kept)} of {seen} prompts cut from the left to fit max_length={max_length}"
        print_line(f"{text}; the shortest keeps {min(kept)} tokens{lost}")
    if dropped:
        text = f"{dropped} of {seen} pairs dropped: a reply alone is longer than max_length={max_length} allows"
        print_line(f"{text}, or leaves less than half of its prompt and fewer than {least} tokens")
