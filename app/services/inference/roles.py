"""Rewrites the role `developer`, which OpenAI's newer models have, for providers that know only `system`.

Chat templates of open models accept a system message at the beginning only, and prompt caches keep the longest equal
beginning. So the instructions before the first response become one system message at the beginning, and later ones
become text of the user in their place.
"""

from __future__ import annotations

from typing import Any

from app.services.inference.omission import Omissions

_INSTRUCTIONS = ("developer", "system")


def replace_developer_role(
    messages: list[dict[str, Any]], omitted: Omissions
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the messages without the role `developer`, and what was changed, as in "messages[].role=…".

    Messages without this role are returned as they are, even if they have a system message in an odd place: a model
    may accept that, and the caller chose it.
    """
    roles = [message.get("role") for message in messages]
    if "developer" not in roles:
        return messages, []
    first_answer = roles.index("assistant") if "assistant" in roles else len(roles)
    leading = [message for message in messages[:first_answer] if message.get("role") in _INSTRUCTIONS]
    others = [message for message in messages[:first_answer] if message.get("role") not in _INSTRUCTIONS]
    later = [
        {**message, "role": "user"} if message.get("role") in _INSTRUCTIONS else message
        for message in messages[first_answer:]
    ]
    applied = ["messages[].role=developer->system"] if "developer" in roles[:first_answer] else []
    applied += [f"messages[].role={role}->user" for role in _INSTRUCTIONS if role in roles[first_answer:]]
    return [*([_join(leading, omitted)] if leading else []), *others, *later], applied


def _join(messages: list[dict[str, Any]], omitted: Omissions) -> dict[str, Any]:
    first = messages[0]
    if len(messages) == 1:
        return {**first, "role": "system"}
    for message in messages[1:]:
        for name in message.keys() - {"role", "content"}:
            omitted.add(f"messages[].{name}")
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
