"""Misbehaving models: response bodies whose events are dropped, delayed, garbled or cut off."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

from app.sandbox.behaviours import Behaviour
from app.sandbox.events import Event

Fault = Callable[[Iterator[Event], float], Iterator[Event]]
"""A function of the events of a stream and the number of the behaviour; returns the events that are sent."""

_GARBAGE = (
    b"this line is no event\n\n",
    b"data: {not json\n\n",
    b"data: [1, 2\n",
    b"\xff\xfe\x00 bytes that are no text\n\n",
)


def apply_to_stream(behaviour: Behaviour, events: Iterator[Event], error: bytes) -> Iterator[Event]:
    """Returns the events that the behaviour sends for a stream; `error` is the provider's error event."""
    if behaviour.kind == "error-event":
        return chain(_end_early(events, behaviour.number), [Event(error)])
    fault = _STREAM_FAULTS.get(behaviour.kind)
    return fault(events, behaviour.number) if fault else events


def _delay(events: Iterator[Event], number: float) -> Iterator[Event]:
    first = next(events)
    return chain([replace(first, wait_s=number)], events)


def _stop_after(events: Iterator[Event], number: float, then: str) -> Iterator[Event]:
    kept = list(islice(events, int(number))) or [Event(b"")]
    kept[-1].then = then  # type: ignore[assignment]
    return iter(kept)


def _stall(events: Iterator[Event], number: float) -> Iterator[Event]:
    return _stop_after(events, number, "stall")


def _cut(events: Iterator[Event], number: float) -> Iterator[Event]:
    return _stop_after(events, number, "cut")


def _reset(events: Iterator[Event], number: float) -> Iterator[Event]:
    return _stop_after(events, number, "reset")


def _end_early(events: Iterator[Event], number: float) -> Iterator[Event]:
    """Yields at most `number` events, and none from the finish on."""
    for event in islice(events, int(number)):
        if event.stage in ("finish", "usage", "done"):
            return
        yield event


def _drop_done(events: Iterator[Event], number: float) -> Iterator[Event]:
    return (event for event in events if event.stage != "done")


def _garble(events: Iterator[Event], number: float) -> Iterator[Event]:
    first = next(events)
    return chain([first], (replace(first, payload=line, wait_s=0.0) for line in _GARBAGE))


def _drip(events: Iterable[Event], number: float) -> Iterator[Event]:
    for event in events:
        # The tokens count with the last byte: a client that disconnects before that has not received them.
        last = len(event.payload) - 1
        for index in range(len(event.payload)):
            byte = event.payload[index : index + 1]
            tokens = event.tokens if index == last else 0
            yield Event(byte, tokens, 1 / number if number else 0.0, stage=event.stage)


def _add_comments(events: Iterator[Event], number: float) -> Iterator[Event]:
    for event in events:
        payload = b": a comment\n\n" + event.payload if event.tokens else event.payload
        yield replace(event, payload=payload.replace(b"\n", b"\r\n"))


_STREAM_FAULTS: dict[str, Fault] = {
    "slow-first-token": _delay,
    "stall": _stall,
    "cut-after": _cut,
    "reset-after": _reset,
    "clean-end": _end_early,
    "no-done": _drop_done,
    "garbage": _garble,
    "drip": _drip,
    "crlf": _add_comments,
}


def apply_to_body(behaviour: Behaviour, body: bytes, wait_s: float, tokens: int) -> Iterator[Event]:
    """Returns the pieces of an unstreamed body, the first of which is sent after `wait_s` seconds."""
    half = body[: len(body) // 2]
    if behaviour.kind == "stall":
        return iter([Event(half, 0, wait_s, then="stall")])
    if behaviour.kind == "cut-after":
        return iter([Event(half, 0, wait_s, then="cut")])
    if behaviour.kind == "reset-after":
        return iter([Event(half, 0, wait_s, then="reset")])
    if behaviour.kind == "drip":
        return _drip([Event(body, tokens)], behaviour.number)
    if behaviour.kind == "slow-first-token":
        wait_s = behaviour.number
    return iter([Event(body, tokens, wait_s)])
