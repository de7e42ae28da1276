"""What a request body says."""

from __future__ import annotations

from tests.sim.call import BadRequest
from tests.sim.engine import Prompt
from tests.sim.shapes import Json


def prompts_in(value: object, name: str) -> tuple[list[Prompt], bool]:
    """The prompts in `value`, and whether it was a list of them. Raises BadRequest."""
    if isinstance(value, str):
        return [Prompt.of(value)], False
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [Prompt.of(value)], False
        if all(isinstance(item, str | list) for item in value):
            return [Prompt.of(item) for item in value], True
    raise BadRequest(f"{name}: expected a string, a list of strings or token ids")


def count(body: Json, *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if isinstance(value, int):
            return value
        if value is not None:
            raise BadRequest(f"{name}: expected an integer, got {value!r}")
    return None


def _content(message: object) -> str:
    """The text of a chat message or of one part of it."""
    if isinstance(message, str):
        return message
    if isinstance(message, list):
        return " ".join(filter(None, map(_content, message)))
    if isinstance(message, dict):
        return _content(message.get("content", message.get("text", "")))
    return ""


def conversation(messages: object) -> str:
    """A chat as text; the next turn begins with this turn's text and its answer."""
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages: expected a non-empty list")
    if not all(isinstance(message, dict) for message in messages):
        raise BadRequest("messages: expected objects")
    turns = (f"<|{message.get('role')}|>{_content(message)}\n" for message in messages)
    return "".join([*turns, "<|assistant|>"])
