"""The place of instructions in a conversation: one rule for all APIs and all their names for instructions.

Chat templates of open models accept a system message only at the beginning, and prompt caches keep the longest equal
beginning. So the instructions before the first response become one system message at the beginning, and later ones
become user text at their position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_INSTRUCTIONS = ("developer", "system")


def replace_developer_role(
    messages: list[dict[str, Any]], omit: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the messages without the role `developer`, and the changes, as in "messages[].role=…".

    Messages without this role are returned unchanged, even if they have a system message at an odd position: a model
    may accept that, and the caller chose it.

    Args:
        messages: the messages of a chat request.
        omit: gets the names of the removed fields.
    """
    if all(message.get("role") != "developer" for message in messages):
        return messages, []
    messages, applied = hoist_instructions(messages, omit)
    return messages, [name for name in applied if name != JOINED]


JOINED = "messages[].role=system->joined"


def hoist_instructions(
    messages: list[dict[str, Any]], omit: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns chat messages with at most one system message, at the beginning, and the changes.

    Args:
        messages: the messages of a chat request; they are not changed.
        omit: gets the names of the removed fields.

    Returns:
        The messages, and the changes as in "messages[].role=developer->system"; JOINED if a system message was joined
        with others or moved to the beginning.
    """
    roles = [message.get("role") for message in messages]
    first_answer = roles.index("assistant") if "assistant" in roles else len(roles)
    leading = [message for message in messages[:first_answer] if message.get("role") in _INSTRUCTIONS]
    others = [message for message in messages[:first_answer] if message.get("role") not in _INSTRUCTIONS]
    later = [
        {**message, "role": "user"} if message.get("role") in _INSTRUCTIONS else message
        for message in messages[first_answer:]
    ]
    applied = ["messages[].role=developer->system"] if "developer" in roles[:first_answer] else []
    if "system" in roles[1:first_answer]:
        applied.append(JOINED)
    applied += [f"messages[].role={role}->user" for role in _INSTRUCTIONS if role in roles[first_answer:]]
    return [*([_join(leading, omit)] if leading else []), *others, *later], applied


def _join(messages: list[dict[str, Any]], omit: Callable[[str], None]) -> dict[str, Any]:
    first = messages[0]
    if len(messages) == 1:
        return {**first, "role": "system"}
    for message in messages[1:]:
        for name in message.keys() - {"role", "content"}:
            omit(f"messages[].{name}")
    return {**first, "role": "system", "content": _join_contents([message.get("content") for message in messages])}


def _join_contents(contents: list[Any]) -> Any:
    """Returns the texts with a blank line between them, or a list of parts if there is more than plain text."""
    parts: list[Any] = []
    for content in contents:
        if isinstance(content, list):
            parts += content
        elif content is not None:
            parts.append({"type": "text", "text": content})
    if all(_is_plain_text(part) for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _is_plain_text(part: Any) -> bool:
    return isinstance(part, dict) and part.keys() == {"type", "text"} and isinstance(part["text"], str)
