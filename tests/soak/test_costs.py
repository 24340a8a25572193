"""No data from a provider costs more than ten times as much CPU time per byte as plain text, and no data from a caller
more than twenty times as much.

The figures are ratios of CPU times within this process, the best of several runs, to a plain input of the same kind.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from urllib3.exceptions import ProtocolError

from app.errors import BadRequest, UpstreamCut, UpstreamError
from app.services.endpoints import ENDPOINTS
from app.services.endpoints.chat_assembly import ChatCollector
from app.services.inference.adaptation import adapt
from app.services.inference.json_body import MAX_ELEMENTS, parse_body
from app.services.inference.validation import validate_body
from app.services.providers import PROVIDERS
from app.services.routing import Target
from app.services.streaming import EventReader
from app.services.streaming.sse import MAX_EVENT_ELEMENTS
from app.upstream import Response
from app.upstream.errors import make_response_error
from app.upstream.http1 import receive_head

MOST_TIMES = 10.0
# Higher, because a plain body or response takes a short cut through all checks: 1.6 to 2.4 ns per byte, not 5.4.
MOST_TIMES_OF_A_BODY = 20.0
RUNS = 3
SIZE = 1 << 20

CHAT = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/chat/completions")
TARGET = Target(PROVIDERS["fireworks"], "accounts/fireworks/models/m", is_listed=True)


class Cost(NamedTuple):
    """A call that processes `size` bytes."""

    run: Callable[[], Any]
    size: int

    def measure(self) -> float:
        """Returns the CPU time of the fastest of several calls, in ns per byte."""
        best = float("inf")
        for _ in range(RUNS):
            gc.collect()
            began = time.process_time_ns()
            self.run()
            best = min(best, (time.process_time_ns() - began) / self.size)
        return best


def make_costs(run: Callable[[bytes], Any], inputs: dict[str, bytes], least: int = 0) -> dict[str, Cost]:
    """Returns the call for each input, which counts as at least `least` bytes."""
    return {name: Cost(partial(run, content), max(len(content), least)) for name, content in inputs.items()}


def check_ratios(plain: Cost, costs: dict[str, Cost], most: float = MOST_TIMES) -> None:
    """Fails if one of the costs is above `most` times the plain one; the output has all of them."""
    plain_ns, found = plain.measure(), {name: cost.measure() for name, cost in costs.items()}
    for name, cost in costs.items():
        if (
            found[name] > most * plain_ns
        ):  # If the machine was slower just then, more calls of both beside each other tell.
            plain_ns = min(plain_ns, *(plain.measure() for _ in range(RUNS)))
            found[name] = min(found[name], *(cost.measure() for _ in range(RUNS)))
    ratios = {name: round(ns / plain_ns, 1) for name, ns in found.items()}
    print(f"plain: {plain_ns:.1f} ns per byte; times as much:", ratios)
    assert {name: ratio for name, ratio in ratios.items() if ratio > most} == {}


def process_body(content: bytes) -> None:
    """Processes a body like the gateway between reading and sending it, or refuses it."""
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


# Makes counts of string ends differ, so that the slow parser looks for repeated keys.
ODD_ESCAPE = rb'"\u005c",'
# Halfway between two floats, which fast conversions of numbers cannot decide.
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

# Small bodies, compared with a plain body of a megabyte, because more bytes would not add to their cost.
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
    costs = make_costs(process_body, BODIES) | make_costs(process_body, DENSE_BODIES, least=DENSE_SIZE)
    check_ratios(Cost(partial(process_body, plain), len(plain)), costs, MOST_TIMES_OF_A_BODY)


class Connection:
    """A socket that has already received everything."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def settimeout(self, timeout_s: float) -> None:
        """Waiting is never needed."""

    def recv(self, size: int) -> bytes:
        """Returns the next bytes."""
        piece = self._content[self._at : self._at + size]
        self._at += size
        return piece


def receive(content: bytes) -> Response:
    """Returns the response that consists of these bytes."""
    connection = Connection(content)
    head = receive_head(connection, 60)  # type: ignore[arg-type]
    pooled = SimpleNamespace(head=head, connection=SimpleNamespace(sock=connection), release=lambda reusable: None)
    return Response("Fireworks", pooled, ("x-request-id",))  # type: ignore[arg-type]


def process_response(content: bytes) -> None:
    """Processes a whole response like the gateway, or refuses it."""
    with suppress(UpstreamError, ProtocolError, ValueError):
        value = receive(content).read_json(idle_timeout_s=60, deadline_s=time.monotonic() + 60)
        CHAT.summarize(value)
        msgspec.json.encode(CHAT.normalise(value))


def process_error(content: bytes) -> None:
    """Processes an error response like the gateway."""
    response = receive(b"HTTP/1.1 400 x\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    body = response.read(idle_timeout_s=60, deadline_s=time.monotonic() + 60)
    make_response_error("X", "X", status=400, headers=response.headers, request_id=None, content=body).to_json()


def process_stream(content: bytes, *, collects: bool = False) -> None:
    """Processes a stream like the gateway, except for its two sockets."""
    collector = ChatCollector() if collects else None
    reader = EventReader(CHAT, "Fireworks", key_setting="KEY", show_usage=True, collector=collector)
    with suppress(UpstreamCut, ProtocolError):
        body = receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + content).body
        while not reader.is_over and (payload := body.receive(60)):
            reader.read(payload, 0.0)
    if collector is not None:
        collector.make_response()


def answer(content: bytes, more: bytes = b"") -> bytes:
    """Returns a whole response with this content and additional fields."""
    body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"' + content + b'"}}]' + more + b"}"
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def chunks(pieces: Iterable[bytes]) -> bytes:
    """Returns a body in the chunked coding, with a chunk for each piece."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def event(delta: bytes, more: bytes = b"") -> bytes:
    """Returns an event of a chat stream of typical length."""
    return (
        b'data: {"id":"chatcmpl-0a1b2c3d4e5f60718293a4b5","object":"chat.completion.chunk","created":1756000000,'
        b'"model":"accounts/fireworks/models/scripted","choices":[{"index":0,"delta":{%b},"finish_reason":null}]%b}\n\n'
    ) % (delta, more)


def tiny(piece: bytes) -> list[bytes]:
    """Returns as many of these pieces as SIZE holds, without the chunked coding around them."""
    return [piece] * (SIZE // len(piece) // 4)


WORDS = [event(b'"content":"word "')] * (SIZE // 250)
RESPONSES = {
    "whole numbers": answer(b"x", b',"more":[' + (b"1" * 640 + b",") * (SIZE // 641) + b"1]"),
    "hard fractions": answer(b"x", b',"more":[' + (HARD_FLOAT + b",") * (SIZE // len(HARD_FLOAT)) + b"1]"),
    "escapes": answer(rb"\n" * (SIZE // 2)),
    "chunks of a byte": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks([b" "] * (SIZE // 6)),
}
# Compared with a plain response of six times their size. At the limit on elements, they take about twice as long as
# plain text of the maximum size.
DENSE_RESPONSES = {
    "alternatives of tokens": answer(
        b"x", b',"logprobs":[' + b'{"token":"a","logprob":-0.12,"bytes":[97]},' * 40_000 + b"1]"
    ),
    "choices": b'HTTP/1.1 200 OK\r\n\r\n{"choices":[' + b"{}," * (SIZE // 3) + b"{}]}",
    "empty arrays": answer(b"x", b',"more":[' + b"[]," * (SIZE // 3) + b"1]"),
    "nested arrays": answer(b"x", b',"more":[' + (b"[" * 60 + b"]" * 60 + b",") * (SIZE // 121) + b"1]"),
}
# Compared with a plain response of four times the size of the largest head.
HEADS = {
    "a head of short headers": b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 13_000 + b"\r\n",
    "a head of one header": b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 10_000 + b"\r\n",
    "a head of spaces": b"HTTP/1.1 200 OK\r\na:" + b" " * 60_000 + b"\r\n\r\n",
    "early hints": b"HTTP/1.1 103 x\r\n\r\n" * 20_000,
}
ERRORS = {
    "postgres": b'{"error":"' + b"postgres" * 7_000 + b'"}',
    "database addresses": b'{"error":"' + b"postgres://a:b" * 4_000 + b'"}',
    "bearers": b'{"error":"' + b"bearer " * 8_000 + b'"}',
    "keys": b'{"error":"' + b"sk-aaaaaa " * 6_000 + b'"}',
    "full stops": b'{"error":"' + b"." * 60_000 + b'"}',
    "field errors": b'{"detail":[' + b'{"loc":["a"],"msg":"b"},' * 2_500 + b"1]}",
    "a field error of many steps": b'{"detail":[{"loc":[' + b"1," * 30_000 + b'1],"msg":"b"}]}',
    "nested arrays": b'{"error":' + b"[" * 60_000,
}
STREAMS = {
    "chunks of a byte": chunks([bytes([byte]) for byte in b"".join(WORDS)[: SIZE // 6]]),
    "events in pieces of a byte": chunks([b"".join(WORDS)]),
    "tiny comments": chunks(tiny(b":\n\n")),
    "tiny comments in large chunks": chunks([b":\n\n" * 3_000] * (SIZE // 10_000)),
    "tiny events": chunks(tiny(b"data: {}\n\n")),
    "tiny events in large chunks": chunks([b"data: {}\n\n" * 1_000] * (SIZE // 10_000)),
    "line ends": chunks([b"\n" * 10_000] * (SIZE // 10_000)),
    "carriage returns": chunks([b"\r\n" * 5_000] * (SIZE // 10_000)),
    "an event of short lines": chunks([b"data:\n" * 1_000] * (SIZE // 6_000)),
    "an event of empty arrays": chunks([event(b'"content":[' + b"[]," * (SIZE // 3) + b"[]]")]),
    "an event without end": chunks([b"data: " + b"x" * SIZE]),
    "odd choices": chunks([event(b"", b',"choices":[' + b'{"index":1},' * 900 + b"{}]")] * (SIZE // 11_000)),
    "too many odd choices": chunks([event(b"", b',"choices":[' + b'{"index":1},' * 20_000 + b"{}]")]),
    "choices": chunks(
        [event(b"", b',"choices":[' + b",".join([b'{"index":1,"delta":{}}'] * 20_000) + b"]")] * (SIZE // 460_000)
    ),
    "odd calls": chunks(
        [event(b'"tool_calls":[' + b",".join([b'{"id":"a"}'] * 45_000) + b"]")] * (SIZE // 500_000),
    ),
    "odd fractions": chunks([event(b"", b',"more":[NaN' + b",0.12345" * (SIZE // 8) + b"]")]),
    "odd whole numbers": chunks([event(b"", b',"more":[NaN' + b",1" * (SIZE // 2) + b"]")]),
    "surrogates": chunks([event(b'"content":"' + rb"\ud83d" * (SIZE // 6) + b'"')]),
}
# Compared with a plain stream of a megabyte.
DENSE_STREAMS = {
    "as many empty arrays as allowed": chunks([event(b'"content":[' + b"[]," * (MAX_EVENT_ELEMENTS - 50) + b"[]]")]),
}
LONG_TEXT = [event(b'"content":"%b"' % (b"x" * 400))] * (SIZE // 400)
COLLECTED = {
    "long text": chunks(LONG_TEXT),
    "lists": chunks([event(b'"content":""', b',"choices":[{"token_ids":[1,2,3,4]}]')] * (SIZE // 250)),
    "calls": chunks(
        [event(b'"tool_calls":[{"index":%d,"function":{"arguments":"x"}}]' % number) for number in range(SIZE // 250)]
    ),
    "choices": chunks(
        [event(b"", b',"choices":[{"index":%d,"delta":{"content":"x"}}]' % number) for number in range(SIZE // 250)]
    ),
}


@pytest.mark.soak
def test_responses_cost_about_as_much_as_plain_ones_of_the_same_size() -> None:
    plain = answer(b"word " * (SIZE // 5))
    costs = make_costs(process_response, RESPONSES) | make_costs(process_response, DENSE_RESPONSES, least=6 * SIZE)
    costs |= make_costs(process_response, HEADS, least=1 << 18)
    check_ratios(Cost(partial(process_response, plain), len(plain)), costs, MOST_TIMES_OF_A_BODY)


@pytest.mark.soak
def test_error_responses_cost_about_as_much_as_plain_ones_of_the_same_size() -> None:
    plain = b'{"error":"' + b"word " * 12_000 + b'"}'
    check_ratios(Cost(partial(process_error, plain), len(plain)), make_costs(process_error, ERRORS))


@pytest.mark.soak
def test_streams_cost_about_as_much_as_plain_ones_of_the_same_size() -> None:
    plain = chunks(WORDS)
    costs = make_costs(process_stream, STREAMS) | make_costs(process_stream, DENSE_STREAMS, least=DENSE_SIZE)
    check_ratios(Cost(partial(process_stream, plain), len(plain)), costs)


@pytest.mark.soak
def test_collected_streams_cost_about_as_much_as_plain_ones_of_the_same_size() -> None:
    plain, collect = chunks(WORDS), partial(process_stream, collects=True)
    check_ratios(Cost(partial(collect, plain), len(plain)), make_costs(collect, COLLECTED))
