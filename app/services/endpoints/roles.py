"""Where instructions stand in a conversation: one rule for all APIs and all their names for instructions.

Chat templates of open models accept a system message at the beginning only, and prompt caches keep the longest equal
beginning. So the instructions before the first response become one system message at the beginning, and later ones
become text of the user in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_INSTRUCTIONS = ("developer", "system")


def replace_developer_role(
    messages: list[dict[str, Any]], omit: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the messages without the role `developer`, and what was changed, as in "messages[].role=…".

    Messages without this role are returned as they are, even if they have a system message in an odd place: a model
    may accept that, and the caller chose it.

    Args:
        messages: those of a chat request.
        omit: gets the names of the fields that were left out.
    """
    if all(message.get("role") != "developer" for message in messages):
        return messages, []
    messages, applied = hoist_instructions(messages, omit)
    return messages, [name for name in applied if name != JOINED]


JOINED = "messages[].role=system->joined"


def hoist_instructions(
    messages: list[dict[str, Any]], omit: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns chat messages with one system message at most, at the beginning, and what was changed.

    Args:
        messages: those of a chat request, which are not changed.
        omit: gets the names of the fields that were left out.

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
