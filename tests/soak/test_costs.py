"""Nothing that a caller or a provider sends costs more than ten times as much CPU per byte as plain text does.

The figures are ratios within this process: of CPU time, of the best of several runs, to a plain input of the same kind.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from app.errors import BadRequest
from app.services.endpoints import ENDPOINTS
from app.services.inference.adaptation import adapt
from app.services.inference.json_body import parse_body
from app.services.inference.json_structure import MAX_ELEMENTS
from app.services.inference.routing import Target
from app.services.inference.validation import validate_body
from app.services.providers import PROVIDERS

MOST_TIMES = 10.0
RUNS = 3
SIZE = 2 << 20

(CHAT,) = [endpoint for endpoint in ENDPOINTS if endpoint.name == "chat"]
TARGET = Target(PROVIDERS["fireworks"], "accounts/fireworks/models/m", is_listed=True)


def ns_per_byte(run: Callable[[], Any], size: int) -> float:
    """Returns the CPU time of the fastest of several calls, for each of `size` bytes."""
    best = float("inf")
    for _ in range(RUNS):
        gc.collect()
        began = time.process_time_ns()
        run()
        best = min(best, (time.process_time_ns() - began) / size)
    return best


def check_ratios(plain: float, costs: dict[str, float]) -> None:
    """Fails if one of the costs is above MOST_TIMES the plain one; the message has all of them."""
    ratios = {name: round(cost / plain, 1) for name, cost in costs.items()}
    assert max(ratios.values()) <= MOST_TIMES, ratios
    print(f"plain {plain:.1f} ns per byte;", ratios)


def process_body(content: bytes) -> None:
    """Does all that the gateway does with a body between reading and sending it, or refuses it."""
    with suppress(BadRequest):
        body = parse_body(content)
        adapt(body, validate_body(body, CHAT.body), CHAT, TARGET)


def conversation(message: bytes) -> bytes:
    """Returns a body with as many of these messages as SIZE holds."""
    count = SIZE // (len(message) + 1)
    return b'{"model":"m","messages":[' + b",".join([message] * count) + b"]}"


def body_of(value: bytes) -> bytes:
    """Returns a body with an additional field of this value."""
    return b'{"model":"m","messages":[{"role":"user","content":"Hello!"}],"more":' + value + b"}"


def array_of(unit: bytes, count: int | None = None) -> bytes:
    """Returns a body with an array of `count` units, by default as many as SIZE holds."""
    count = SIZE // (len(unit) + 1) if count is None else count
    return body_of(b"[" + b",".join([unit] * count) + b"]")


def object_of(count: int, last: bytes = b"") -> bytes:
    """Returns a body with an object of `count` different keys, and `last` after them."""
    members = b",".join(b'"k%07d":1' % number for number in range(count))
    return body_of(b"{" + members + last + b"}")


# Makes the numbers of string ends differ, so that the slow parser looks for repeated keys.
ODD_ESCAPE = rb'"\u005c",'
# Halfway between two numbers, which the fast ways to convert a number cannot decide.
HARD_FLOAT = b"8988465674311579538646525953945123668089884894711532863671504057886633790275048156635423866120.5"
HARD_FLOAT += b"37680105600569399356966788293948844072083112464237153197370621888839467124327426381511098006e-300"

BODIES = {
    "short messages": conversation(b'{"role":"user","content":"%b"}' % (b"word " * 20)),
    "empty messages": conversation(b"{}"),
    "messages that are numbers": conversation(b"1"),
    "numbers": array_of(b"1"),
    "numbers and an odd escape": body_of(b"[" + ODD_ESCAPE + b",".join([b"1"] * (SIZE // 2)) + b"]"),
    "text and an odd escape": body_of(b"[" + ODD_ESCAPE + b'"' + b"word " * (SIZE // 5) + b'"]'),
    "short fractions": array_of(b"0.1"),
    "long fractions": array_of(b"0.12345678"),
    "hard fractions": array_of(HARD_FLOAT),
    "whole numbers of 640 digits": array_of(b"1" * 640),
    "whole numbers of 4,000 digits": array_of(b"1" * 4_000),
    "empty strings": array_of(b'""'),
    "nulls": array_of(b"null"),
    "escapes": body_of(b'"' + rb"\n" * (SIZE // 2) + b'"'),
    "long escapes": body_of(b'"' + rb"\u0041" * (SIZE // 6) + b'"'),
    "escaped quotes": body_of(b'"' + rb"\"{" * (SIZE // 3) + b'"'),
    "braces in strings": body_of(b'"' + b"{" * SIZE + b'"'),
    "spaces": body_of(b" " * SIZE + b"1"),
    "too many empty objects": array_of(b"{}"),
    "too many empty arrays": array_of(b"[]"),
    "too many keys": object_of(MAX_ELEMENTS + 1),
    "too deep": body_of(b"[" * SIZE),
}

# Small bodies, compared with a plain body of a megabyte: more bytes would add nothing to their cost.
DENSE_SIZE = 1 << 20
DENSE_BODIES = {
    "as many empty objects as allowed": array_of(b"{}", MAX_ELEMENTS - 9),
    "as many empty arrays as allowed": array_of(b"[]", MAX_ELEMENTS - 9),
    "as many nested arrays as allowed": array_of(b"[" * 60 + b"]" * 60, MAX_ELEMENTS // 60 - 1),
    "as many small objects as allowed": array_of(b'{"a":1}', MAX_ELEMENTS // 2 - 9),
    "as many keys as allowed": object_of(MAX_ELEMENTS - 9),
    "as many keys as allowed, the last one twice": object_of(MAX_ELEMENTS - 9, b',"k%07d":1' % (MAX_ELEMENTS - 10)),
    "small objects, the last key twice": array_of(b'{"a":1}', MAX_ELEMENTS // 3)[:-2] + b',{"a":1,"a":2}]}',
}


@pytest.mark.soak
def test_bodies_cost_about_as_much_as_plain_ones_of_the_same_size() -> None:
    plain = conversation(b'{"role":"user","content":"%b"}' % (b"word " * 400))
    costs = {
        name: ns_per_byte(lambda content=content: process_body(content), max(len(content), DENSE_SIZE))
        for name, content in (BODIES | DENSE_BODIES).items()
    }
    check_ratios(ns_per_byte(lambda: process_body(plain), len(plain)), costs)
