"""Check the text or the messages of one field of a preference pair."""

from __future__ import annotations

import ast
import json
import re

from toylib.engine.json_rows import BadRow
from toylib.preferences import first_line

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}
VISIBLE = re.compile(  # any character but spaces, control characters and those of no width
    r"[^\s\x00-\x1f\x7f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\u2800\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
STORED_MESSAGES = re.compile(  # an object needs both parts of a message: other JSON may well be the reply
    r"""\s*(\[\s*\{\s*['"]role['"]\s*:|\[?\s*\{\s*(?=['"](role|content|name|weight|tool_call\w*|from|value|messages)['"]\s*:)"""
    r"""(?=.*['"](role['"]\s*:.*['"](content|tool_calls)|(content|tool_calls)['"]\s*:.*['"]role|"""
    r"""from['"]\s*:.*['"]value|value['"]\s*:.*['"]from|messages)['"]\s*:))""",
    re.DOTALL,
)


def checked_value(field, value):
    """Return the checked text, or the checked list of messages, of a field."""
    if isinstance(value, str):
        if not VISIBLE.search(value):
            raise BadRow(f"field {field!r} is {'blank' if value else 'empty'}")
        if not (value[0] in "[{ \n\t" and STORED_MESSAGES.match(value)):
            return _unicode(field, value)
        value = from_text(field, value, (list, dict))
    if value is None:
        raise BadRow(f"field {field!r} is missing")
    if isinstance(value, dict) and ("role" in value or "from" in value):
        value = [value]
    if not isinstance(value, list):
        raise BadRow(f"field {field!r} is not text but {type(value).__name__}")
    if not value:
        raise BadRow(f"field {field!r} is empty")
    if isinstance(value[0], str):
        raise BadRow(f"field {field!r} is a list of texts: give one text, or messages with a role and a content")
    return [_message(field, message) for message in value]


def _unicode(field, text):
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRow(f"field {field!r} holds half of a character (a lone surrogate)") from None
    return text


def from_text(field, value, kind):
    """Return a value that may be stored as JSON or Python text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                raise BadRow(f"field {field!r} looks stored as JSON or Python text, but is neither") from None
    if not isinstance(value, kind):
        raise BadRow(f"field {field!r} is not a {'list' if kind is list else 'dict'} but {type(value).__name__}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError) as problem:
        raise BadRow(f"field {field!r} cannot be stored as JSON: {first_line(problem, 80)}") from None
    return value


def _message(field, message):
    """Return one message with a known role and content of text; all other keys stay."""
    if isinstance(message, dict) and message.get("from") == "function_call":
        message = _function_call(field, message.get("value"))
    elif isinstance(message, dict) and "from" in message and "value" in message:
        role = SHAREGPT_ROLES.get(str(message["from"]), message["from"])
        others = {key: value for key, value in message.items() if key not in ("from", "value")}
        message = {"role": role, "content": message["value"], **others}
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRow(f"field {field!r} has a message without a text 'role' and a text 'content'")
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise BadRow(f"field {field!r} has a message of the unknown role {role!r}; known are {', '.join(ROLES)}")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise BadRow(f"field {field!r} has a content part of type {kind}; only those with a text are read")
        content = "".join(part["text"] for part in content)
        message = message | {"content": content}
    empty = content is None and message.get("tool_calls") or role in ("system", "developer", "tool") and content == ""
    if not empty and not (isinstance(content, str) and (VISIBLE.search(content) or message.get("tool_calls"))):
        raise BadRow(f"field {field!r} has a message without a text 'role' and a text 'content'")
    if message.keys() - {"role", "content"}:
        from_text(field, message, dict)
    elif content:
        _unicode(field, content)
    return message


def _function_call(field, value):
    """Return the assistant's message for a `function_call` turn of ShareGPT: one call or a list of them, perhaps as JSON."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
        calls = [
            {"name": call["name"], "arguments": call["arguments"]}
            for call in (calls if isinstance(calls, list) else [calls])
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRow(f"field {field!r} has a function_call turn that is not JSON with a name and arguments") from None
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call} for call in calls],
    }
