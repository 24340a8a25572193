"""The compiled path for events loses no memory: a million events of all kinds, and streams that begin and end."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from app.config import load_settings
from app.services.endpoints import CHAT
from app.services.streaming import EventReader
from app.services.streaming.passage import make_passage
from app.speedups import find_speedups
from tests.support.answers import chunk, event_bytes, usage_chunk, usage_of
from tests.support.soak import soak_count

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(find_speedups().speedups is None, reason="not built; `make speedups` builds it"),
]

EVENTS = soak_count(1_000_000)
STREAM_EVENTS = 200
ALLOWED_BYTES = 2_000_000  # Leaking a reference with each event, or an object with each stream, would take over 20 MB.

USUAL = event_bytes(chunk("a" * 60))
OTHERS = [
    event_bytes(chunk("a", usage=usage_of(5, 2))),
    event_bytes(usage_chunk(usage_of(5, 2))),
    event_bytes(chunk(finish="stop")),
    b'data: {"choices": [}\n\n',
    b": comment\n\n",
]


def coded(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


class Source:
    """A stream's two sockets and its passage; the slow path is replaced by a body that accepts everything."""

    def __init__(self) -> None:
        self.theirs, ours = socket.socketpair()
        self.client, served = socket.socketpair()
        self.kept: list[bytes] = []
        self.settled: list[Any] = []
        self._ours, self._served = ours, served
        body: Any = SimpleNamespace(take=self._take, is_between_chunks=True)
        reader = EventReader(CHAT, "Fireworks", key_setting="KEY", show_usage=False)
        reader.read(USUAL, 0.0)
        passage: Any = make_passage(body, reader, served.fileno(), self._keep, load_settings({}))
        assert passage(b"") is True
        self.on_readable = passage.bind(ours.fileno(), self.settled.append)

    def _take(self, data: bytes) -> bool:
        if data == b"raise":
            raise ValueError("asked for")
        return data != b"stop"

    def _keep(self, rest: bytes) -> bool:
        self.kept.append(rest)
        return False

    def send(self, data: bytes) -> None:
        self.theirs.send(data)
        self.on_readable()

    def close(self) -> None:
        for end in (self.theirs, self.client, self._ours, self._served):
            end.close()


def pass_events() -> Iterator[None]:
    """Passes on STREAM_EVENTS events, including one of each other kind and each way to end, and ends the stream."""
    while True:
        with closing(Source()) as source:
            for event in [USUAL] * (STREAM_EVENTS - len(OTHERS)) + OTHERS:
                source.send(coded(event))
                if event == USUAL:
                    assert source.client.recv(9_000, socket.MSG_DONTWAIT) == coded(event)
            source.on_readable()  # Without data.
            source.client.close()
            source.send(coded(USUAL))
            source.send(b"stop")
            source.send(b"raise")
            assert source.kept == [coded(USUAL)]
            assert source.settled[:2] == [False, False] and str(source.settled[2]) == "asked for"
        yield


def test_a_million_events_leave_nothing_behind() -> None:
    streams = pass_events()
    process = psutil.Process()
    for _ in range(100):
        next(streams)
    gc.collect()
    before = process.memory_info().rss
    for _ in range(EVENTS // STREAM_EVENTS):
        next(streams)
    gc.collect()
    assert process.memory_info().rss - before < ALLOWED_BYTES
