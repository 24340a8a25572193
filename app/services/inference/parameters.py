"""The parameters of a chat request: read strictly, checked where documented, and fitted to the provider.

What is not documented passes unchanged; what a provider would refuse although OpenAI's clients send it is left out
and named. Nothing gets a default.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from app.errors import BadRequest
from app.services.providers import Provider

# Real requests nest tools' JSON schemas a dozen levels deep; parsers recurse, so a bound is needed somewhere.
MAX_DEPTH = 64

_encode = msgspec.json.Encoder().encode


def parse_body(content: bytes) -> dict[str, Any]:
    """Reads a request body as strict JSON.

    Args:
        content: the body; UTF-8, no NaN, no duplicate keys, nested at most MAX_DEPTH levels.

    Returns:
        The JSON object.

    Raises:
        BadRequest: it is anything else.
    """
    try:
        body = msgspec.json.decode(content)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest(
            f"The body is not valid JSON: {error}. Send one JSON object in UTF-8.", code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object with at least `model` and `messages`.", code="invalid_json")
    # Counting brackets is much faster than walking, and few brackets cannot nest deeply.
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _is_deeper_than(body, MAX_DEPTH):
        raise _too_deep()
    _refuse_duplicates(content, body)
    return body


def _too_deep() -> BadRequest:
    return BadRequest(f"The body is nested more than {MAX_DEPTH} levels deep. Flatten it.", code="invalid_json")


def _is_deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_duplicates(content: bytes, body: dict[str, Any]) -> None:
    """Raises BadRequest when an object has a key twice, which parsers disagree about.

    A key that was dropped took its quotes with it, so equal numbers of string ends before and after prove that none
    was. Where escapes are written in an unusual way the numbers may differ for another reason, and a slower parser
    decides.
    """
    if _count_string_ends(content) != _count_string_ends(_encode(body)):
        json.loads(content, object_pairs_hook=_without_duplicates)


def _count_string_ends(text: bytes) -> int:
    quotes = text.count(b'"')
    # Looking for two bytes takes 1 ms a megabyte, for one a hundredth of that, and most prompts have no backslash.
    return quotes - text.count(b'\\"') if b"\\" in text else quotes


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = next(name for position, (name, _) in enumerate(pairs) if name in dict(pairs[:position]))
        raise BadRequest(
            f"The body has the key {name[:100]!r} twice. Send it once.",
            code="duplicate_key",
            param=name[:100],
        )
    return found


def check_parameters(body: dict[str, Any], provider: Provider) -> None:
    """Checks the documented parameters; null counts as absent.

    Raises:
        BadRequest: one has the wrong type or is out of range; `param` names it.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse("messages", "must be a list of at least one message")
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            _refuse(f"messages[{position}]", "must be an object with `role` and `content`")
    for name, check in _CHECKS.items():
        value = body.get(name)
        if value is not None:
            check(name, value)
    for name, (least, most) in provider.serves["chat"].ranges.items():
        value = body.get(name)
        if value is not None:
            _integer(least, most)(name, value)


def _refuse(param: str, must: str) -> NoReturn:
    raise BadRequest(f"`{param}` {must}.", param=param, code="invalid_parameter")


def _integer(least: int, most: int | None = None) -> Callable[[str, Any], None]:
    range_text = f"from {least} to {most}" if most is not None else f"of at least {least}"

    def check(name: str, value: Any) -> None:
        # JSON knows one kind of number: 5.0 is a whole number too, and some clients write it so.
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
        if not whole or value < least or (most is not None and value > most):
            _refuse(name, f"must be a whole number {range_text}")

    return check


def _number(least: float, most: float) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            _refuse(name, f"must be a number from {least:g} to {most:g}")

    return check


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        _refuse(name, "must be true or false")


def _string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        _refuse(name, "must be a text")


def _object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        _refuse(name, "must be an object")


# The documented parameters; the ranges are Fireworks' and OpenAI's. Ranges that differ by provider are in its record.
_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "n": _integer(1, 128),
    "stream": _boolean,
    "stream_options": _object,
    "service_tier": _string,
}


def fit_to_provider(body: dict[str, Any], provider: Provider) -> list[str]:
    """Leaves out of `body`, in place, what the provider refuses although OpenAI's clients send it.

    Returns:
        The names of what was left out, each once, as `x-gateway-dropped-params` shows them.
    """
    support = provider.serves["chat"]
    dropped = [name for name in body if name in support.dropped_fields]
    for name, accepted in support.accepted_values.items():
        value = body.get(name)
        if value is not None and value not in accepted:
            dropped.append(name)
    for name in dropped:
        del body[name]
    for name, new_name in support.renamed_fields.items():
        if name in body and new_name not in body:
            body[new_name] = body.pop(name)
    if support.dropped_message_fields:
        dropped += _drop_message_fields(body["messages"], support.dropped_message_fields)
    return dropped


def _drop_message_fields(messages: list[dict[str, Any]], fields: frozenset[str]) -> list[str]:
    dropped: dict[str, None] = {}
    for message in messages:
        for name in fields.intersection(message):
            del message[name]
            dropped[f"messages[].{name}"] = None
    return list(dropped)


def stream_options_for(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the request's stream options with usage asked for, which the gateway always wants to know."""
    return {**(body.get("stream_options") or {}), "include_usage": True}
