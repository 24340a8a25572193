"""Scripts of the provider that only the table of faults needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.answers import Event, json_answer, sse_stream
from tests.support.scripts import Exchange, Script, Step, close, pause, reset, send

# Closes the connection: a kept one would carry the request of another fault, and its failure would be retried.
ONCE = {"connection": "close"}


def stream(events: Iterable[Event], **more: Any) -> Script:
    """Returns `sse_stream` on a connection that serves no second request."""
    return sse_stream(events, headers=ONCE | more.pop("headers", {}), **more)


def answer(body: object, status: int = 200, **headers: str) -> Script:
    """Returns `json_answer` on a connection that serves no second request; `retry_after` becomes `retry-after`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return json_answer(body, status, ONCE | named)


def in_turn(*scripts: Script) -> Script:
    """Returns a script that plays these in turn for each model name; the last one is repeated."""
    played: Counter[str] = Counter()

    def step(exchange: Exchange) -> None:
        assert exchange.seen is not None
        model = exchange.seen.json["model"]
        chosen = scripts[min(played[model], len(scripts) - 1)]
        played[model] += 1
        for one in chosen:
            one(exchange)

    return [step]


def made_late(make: Callable[[], Script]) -> Script:
    """Returns a script that is made only when it is played, because making megabytes would delay every test process."""

    def step(exchange: Exchange) -> None:
        for one in make():
            one(exchange)

    return [step]


def late_reset() -> Script:
    """Returns a RST after a pause in which earlier data can be read: a reset discards data that was not read."""
    return [pause(0.2), reset()]


def forever(piece: bytes, every_s: float) -> Step:
    """Sends `piece` again and again until the peer leaves."""

    def step(exchange: Exchange) -> None:
        while True:
            exchange.send(piece)
            exchange.wait(every_s)

    return step


def raw(head_and_body: bytes) -> Script:
    """Returns the script of a response that is sent as it is; then the connection is closed."""
    return [send(head_and_body), close()]
