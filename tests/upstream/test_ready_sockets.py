"""Streams are read in short turns: other sockets get theirs, no stream falls behind, and none is forgotten."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket

from app.config import load_settings
from app.runtime import get_component, use_settings
from app.speedups import find_speedups
from app.upstream import ready_sockets
from app.upstream.http1 import RECEIVE_BYTES
from app.upstream.ready_sockets import TURN_S, PacedSockets, ReadySockets, Waiter, WatchedSockets
from app.upstream.socket_reader import make_reader

# Far longer than any wait here.
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadySockets]:
    """The set of sockets of a new runtime, with the fixture's parameters: its class and COMPILED_EVENTS."""
    kind, compiled = getattr(request, "param", (PacedSockets, "false"))
    use_settings(load_settings({"COMPILED_EVENTS": compiled}))
    monkeypatch.setattr(ready_sockets.sys, "platform", "linux" if kind is PacedSockets else "other")
    yield get_component(kind)
    use_settings(None)


COMPILED = pytest.param(
    (PacedSockets, "true"),
    marks=pytest.mark.skipif(find_speedups().speedups is None, reason="not built; `make speedups` builds it"),
)
PACED = [(PacedSockets, "false"), COMPILED]
paced = pytest.mark.parametrize("sockets", PACED, indirect=True, ids=["python", "compiled"])
each = pytest.mark.parametrize(
    "sockets", [*PACED, (WatchedSockets, "false")], indirect=True, ids=["python", "compiled", "watched"]
)


class Stream:
    """A connection whose reader passes each piece to `on_data`, in a greenlet of its own."""

    def __init__(self, on_data: Callable[[bytes], bool]) -> None:
        self.theirs, self.ours = socket.socketpair()
        self.reader = make_reader(self.ours)
        self.waiting = gevent.spawn(self.reader.receive_each, PATIENCE_S, on_data)

    def close(self) -> None:
        self.waiting.join(PATIENCE_S)
        self.reader.close()
        self.theirs.close()
        self.ours.close()


def busily(seconds: float) -> None:
    """Takes CPU time, as many events do."""
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        pass


@paced
def test_other_sockets_get_a_turn_between_many_streams_and_none_is_left_behind(sockets: Any) -> None:
    served: list[int] = []
    rounds = dict.fromkeys(range(60), 0)

    def make_on_data(number: int) -> Callable[[bytes], bool]:
        def on_data(data: bytes) -> bool:
            busily(TURN_S / 4)
            served.append(number)
            rounds[number] += 1
            return rounds[number] < 3

        return on_data

    streams = [Stream(make_on_data(number)) for number in rounds]
    gevent.sleep(0)
    theirs, ours = socket.socketpair()
    answered = []

    def answer() -> None:
        while (request := ours.recv(1)) != b".":
            answered.append((request, len(served)))
            theirs.send(b"q" if len(answered) < 9 else b".")

    other = gevent.spawn(answer)
    gevent.sleep(0)
    for stream in streams:
        stream.theirs.send(bytes(3 * RECEIVE_BYTES))
    theirs.send(b"q")
    other.join(PATIENCE_S)
    # Nine answers in sequence each needed a pass, and got it while streams were waiting. Between two passes, at most as
    # many streams are served as are taken at once.
    turns = [later - earlier for (_, earlier), (_, later) in zip(answered, answered[1:], strict=False)]
    assert len(answered) == 9 and max(turns) <= 2 * ready_sockets._SOCKETS
    for stream in streams:
        stream.close()
    assert set(rounds.values()) == {3}
    assert sorted(served[:60]) == list(range(60)), "one was served twice before another one was served once"
    theirs.close()
    ours.close()


@each
def test_a_wait_ends_with_the_time_and_the_next_one_gets_what_came_between(sockets: Any) -> None:
    received: list[bytes] = []

    def on_data(data: bytes) -> bool:
        received.append(data)
        return len(received) % 2 == 1

    theirs, ours = socket.socketpair()
    reader = make_reader(ours)
    for number in range(3):
        with pytest.raises(TimeoutError):
            reader.receive_each(0.01, on_data)
        theirs.send(b"a%d" % number)
        gevent.sleep(0.005)  # No reader is waiting now.
        assert len(received) == 2 * number
        waiting = gevent.spawn(reader.receive_each, PATIENCE_S, on_data)
        gevent.sleep(0.005)
        theirs.send(b"b%d" % number)
        waiting.get(timeout=PATIENCE_S)
    assert received == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
    theirs.close()
    with pytest.raises(TimeoutError):
        reader.receive_each(0.005, lambda data: data == b"")  # The end, again and again.
    reader.close()
    reader.close()
    ours.close()


@each
def test_a_stream_that_is_closed_by_another_ones_event_is_not_read(sockets: Any) -> None:
    pairs = [socket.socketpair() for _ in range(8)]
    numbers = [ours.fileno() for _, ours in pairs]
    readers = [make_reader(ours) for _, ours in pairs]
    again: list[Any] = []
    calls: list[int] = []

    def make_on_data(number: int) -> Callable[[bytes], bool]:
        def on_data(data: bytes) -> bool:
            calls.append(number)
            for other in set(range(8)) - {number}:
                readers[other].close()
                pairs[other][1].close()
            again.extend(socket.socketpair() for _ in range(4))  # New sockets reuse the closed ones' numbers.
            return False

        return on_data

    waits = [gevent.spawn(reader.receive_each, 0.2, make_on_data(number)) for number, reader in enumerate(readers)]
    gevent.sleep(0)
    for theirs, _ in pairs:
        theirs.send(b"event")
    gevent.wait(waits, timeout=PATIENCE_S, count=1)
    gevent.killall(waits)
    assert len(calls) == 1
    assert {end.fileno() for pair in again for end in pair} & set(numbers)
    readers[calls[0]].close()
    # A new reader on an old number gets only its own data.
    theirs, ours = next(pair for pair in again if pair[1].fileno() in numbers)
    reader, received = make_reader(ours), []
    waiting = gevent.spawn(reader.receive_each, PATIENCE_S, lambda data: bool(received.append(data)))
    gevent.sleep(0)
    theirs.send(b"new")
    waiting.get(timeout=PATIENCE_S)
    assert received == [b"new"]
    reader.close()
    for end in (end for pair in (*pairs, *again) for end in pair):
        end.close()


@paced
def test_a_socket_that_was_closed_first_does_not_take_another_ones_place(sockets: PacedSockets) -> None:
    received: list[bytes] = []
    stream = Stream(lambda data: False)
    gevent.sleep(0)
    stream.theirs.close()
    stream.waiting.join(PATIENCE_S)
    number = stream.ours.fileno()
    stream.ours.close()
    theirs, ours = socket.socketpair()
    if ours.fileno() != number:
        theirs, ours = ours, theirs
    assert ours.fileno() == number
    reader = make_reader(ours)
    waiting = gevent.spawn(reader.receive_each, PATIENCE_S, lambda data: bool(received.append(data)))
    gevent.sleep(0)
    stream.reader.close()
    theirs.send(b"mine")
    waiting.get(timeout=PATIENCE_S)
    assert received == [b"mine"]
    reader.close()
    theirs.close()
    ours.close()


def test_a_forked_child_leaves_the_parents_sockets_alone() -> None:
    received: list[bytes] = []

    def on_data(data: bytes) -> bool:
        received.append(data)
        return False

    stream = Stream(on_data)
    gevent.sleep(0)
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    stream.theirs.send(b"event")
    stream.close()
    assert received == [b"event"]


@paced
def test_streams_get_as_much_of_the_core_as_requests_do(sockets: PacedSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = sockets._served_s
    monkeypatch.setattr(ready_sockets, "time", SimpleNamespace(monotonic=lambda: now_s))
    served = 0

    def on_readable() -> None:
        nonlocal now_s, served
        now_s += 0.000_1
        served += 1

    pairs = [socket.socketpair() for _ in range(40)]
    waiters = [Waiter(ours.fileno()) for _, ours in pairs]
    for waiter, (theirs, _) in zip(waiters, pairs, strict=True):
        sockets.start(waiter, on_readable)
        theirs.send(b"x")  # It is never read, so the socket stays ready.
    turns = []
    for others_s in (0.0, 0.001, 0.01, 1.0):
        now_s += others_s
        served = 0
        sockets._serve()
        turns.append(served)
    # Steps of 16 events of 0.1 ms. A turn lasts as long as the requests before it, but at least 2 and at most 20 ms.
    assert turns == [32, 32, 112, 208]
    for waiter, pair in zip(waiters, pairs, strict=True):
        sockets.remove(waiter)
        for end in pair:
            end.close()


@paced
def test_a_mistake_at_one_socket_does_not_end_the_streams_of_others(
    sockets: PacedSockets, capfd: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = socket.socketpair()
    waiter = Waiter(ours.fileno())
    served: list[int] = []

    def fail_once() -> None:
        served.append(1)
        if len(served) == 1:
            raise MemoryError
        ours.recv(10)

    sockets.start(waiter, fail_once)
    theirs.send(b"event")
    stream = Stream(lambda data: False)
    gevent.sleep(0.01)
    stream.theirs.send(b"event")
    stream.waiting.get(timeout=PATIENCE_S)
    assert len(served) == 2 and "stream_socket_failed" in capfd.readouterr().err
    sockets.remove(waiter)
    stream.close()
    for end in (theirs, ours):
        end.close()


@each
def test_what_a_callback_raises_keeps_its_frames(sockets: Any) -> None:
    def make_the_mistake(data: bytes) -> bool:
        raise KeyError(data)

    stream = Stream(make_the_mistake)
    gevent.sleep(0)
    stream.theirs.send(b"event")
    with pytest.raises(KeyError) as caught:
        stream.waiting.get(timeout=PATIENCE_S)
    assert "make_the_mistake" in [frame.name for frame in caught.traceback]
    stream.close()
