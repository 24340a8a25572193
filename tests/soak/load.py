"""Clients on bare sockets that send requests, read or disconnect, and record their observations."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from tests.soak.kinds import KINDS, body_of, model_of
from tests.support.gateway import Gateway

# The number of concurrent connections in a busy small deployment; each is a thread here.
CLIENTS = 32

# Bounds a hang; a longer request fails the test.
_PATIENCE_S = 90.0

# The share of clients that disconnect, at a random byte of the request or of the response.
_LEAVERS = 0.15
# Answers have some 400 to 2,000 bytes, requests some 400.
_MOST_BYTES_READ = 1_500


@dataclass(frozen=True)
class Plan:
    """The plan of a client's visit.

    Attributes:
        number: part of the model name; unique among requests that must be told apart without an answer.
        kind: a key of KINDS.
        leaves: "sending" or "reading" if the client leaves then, None if it stays to the end.
        after_bytes: how many bytes it sends or reads before it leaves.
        abruptly: whether it leaves with a reset.
    """

    number: int
    kind: str
    leaves: str | None = None
    after_bytes: int = 0
    abruptly: bool = False


@dataclass
class Visit:
    """A client's observations; times are of `time.monotonic`.

    Attributes:
        complete: whether the answer ended properly.
        status: of the answer, None if no head arrived.
        request_id: the gateway's id of the request, None if no head arrived.
        sent_head, sent_all: whether the kernel took the whole head, and the whole request.
    """

    plan: Plan
    started_s: float
    ended_s: float = 0.0
    data: bytes = b""
    sent_head: bool = False
    sent_all: bool = False

    @property
    def model(self) -> str:
        """The model name that was asked for."""
        return model_of(self.plan.kind, self.plan.number)

    @property
    def outcome(self) -> str:
        """The required outcome of the request if only the upstream ended it."""
        return KINDS[self.plan.kind].outcome

    @property
    def complete(self) -> bool:
        """Whether the answer ended properly."""
        return _is_complete(self.data)

    @property
    def hears_of_stop(self) -> bool:
        """Whether the client was told that the gateway stops."""
        return b'"gateway_shutdown"' in self.data

    @property
    def head(self) -> str:
        """The answer's head in lower case, "" if it did not arrive whole."""
        top, end, _ = self.data.partition(b"\r\n\r\n")
        return top.decode("latin-1").lower() if end else ""

    @property
    def status(self) -> int | None:
        """The answer's status, None if no head arrived."""
        return int(self.head.split(" ", 2)[1]) if self.head else None

    @property
    def request_id(self) -> str | None:
        """The gateway's id of the request, None if no head arrived."""
        return _header(self.head, "x-request-id") or None

    def overlaps(self, times: tuple[float, float], later_s: float = 0.0) -> bool:
        """Tells whether it was in flight between two times, if the gateway notices its end up to `later_s` later."""
        return self.started_s <= times[1] and self.ended_s + later_s >= times[0]


class Load:
    """Client threads that carry out plans until the gateway is gone; as a context manager it ends with the last visit.

    Attributes:
        visits: the finished ones.
    """

    def __init__(
        self, gateway: Gateway, plans: Iterator[Plan], *, clients: int = CLIENTS, key: str = "", every_s: float = 0.0
    ) -> None:
        """Starts at once; `every_s` is the least time between two requests of one client."""
        self.visits: list[Visit] = []
        self._gateway, self._key, self._every_s = gateway, key or gateway.key, every_s
        self._plans, self._lock = plans, threading.Lock()
        self._stopping = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, name=f"client-{number}") for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def is_over(self) -> bool:
        """Returns whether all plans are carried out."""
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Takes no further plan, waits for the visits in flight, and raises the first error of a client."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        """Waits until all plans are carried out, and raises the first error of a client."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        try:
            while not self._stopping.is_set() and (plan := self._next_plan()) is not None:
                visit = visit_gateway(self._gateway, plan, self._key)
                if visit is None:
                    return
                self.visits.append(visit)
                self._stopping.wait(max(0.0, self._every_s - (visit.ended_s - visit.started_s)))
        except BaseException as error:
            self._errors.append(error)

    def _next_plan(self) -> Plan | None:
        with self._lock:
            return next(self._plans, None)


def mixed_plans(
    weights: Mapping[str, int], seed: int, *, leavers: float = _LEAVERS, numbers: Iterable[int] | None = None
) -> Iterator[Plan]:
    """Yields a plan for each of the numbers, or endlessly; kinds follow their weights, and a seed repeats the plans."""
    chance = random.Random(seed)
    kinds, shares = list(weights), list(weights.values())
    for number in count(1) if numbers is None else numbers:
        kind = chance.choices(kinds, shares)[0]
        leaves = chance.choice(["sending", "reading"]) if chance.random() < leavers else None
        most = len(body_of(kind, number)) + 200 if leaves == "sending" else _MOST_BYTES_READ
        yield Plan(number, kind, leaves, chance.randrange(most), chance.random() < 0.5)


def visit_gateway(gateway: Gateway, plan: Plan, key: str) -> Visit | None:
    """Carries out a plan on a new connection and returns the visit; None if the gateway is gone.

    Raises:
        TimeoutError: the gateway was silent for far too long.
    """
    body = body_of(plan.kind, plan.number)
    top = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    visit = Visit(plan, time.monotonic())
    try:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=_PATIENCE_S) as connection:
            _converse(connection, visit, top, body)
    except TimeoutError:
        raise
    except ConnectionRefusedError:
        return None
    except OSError:
        pass  # A reset, because the worker is gone. The data received before it counts.
    visit.ended_s = time.monotonic()
    return visit


def _converse(connection: socket.socket, visit: Visit, top: bytes, body: bytes) -> None:
    plan, request = visit.plan, top + body
    sent = min(plan.after_bytes, len(request)) if plan.leaves == "sending" else len(request)
    connection.sendall(request[:sent])
    visit.sent_head, visit.sent_all = sent >= len(top), sent == len(request)
    if plan.leaves != "sending":
        most = plan.after_bytes if plan.leaves == "reading" else None
        while most is None or len(visit.data) < most:
            piece = connection.recv(65_536 if most is None else most - len(visit.data))
            visit.data += piece
            if not piece or _is_complete(visit.data):
                return
    if plan.abruptly:
        # Lingering on with zero seconds makes the close a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _is_complete(data: bytes) -> bool:
    top, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return False
    head = top.decode("latin-1").lower()
    if _header(head, "transfer-encoding") == "chunked":
        return rest.endswith(b"\r\n0\r\n\r\n")
    return len(rest) >= int(_header(head, "content-length") or 0)


def _header(head: str, name: str) -> str:
    return head.partition(f"\r\n{name}: ")[2].partition("\r\n")[0]
