"""The faults of a client: disconnecting at every stage, and stalling while it reads or writes."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.faults.cases import FINISH, ONE, THREE, TWO
from tests.faults.nginx import Door
from tests.faults.observe import requests_for, what_provider_saw
from tests.faults.scripts import answer, forever, made_late, stream
from tests.support.answers import DONE, chat_answer, chunk, event_bytes, head
from tests.support.chat import PREFIX, chat_body, read_until, rows_where
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, hang, send
from tests.support.waiting import PATIENCE_S, wait_until

# Only the limits on clients end these requests; those on the provider are too long.
SETTINGS = {
    "UPSTREAM_CONNECT_TIMEOUT": "60",
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "60",
    "UPSTREAM_IDLE_TIMEOUT": "60",
    "UPSTREAM_TOTAL_TIMEOUT": "60",
    "UPSTREAM_RETRIES": "1",
    "STREAM_HEARTBEAT": "0.5",
    "CLIENT_SEND_TIMEOUT": "1.5",
}
# nginx' limits on clients, shortened too.
NGINX_CHANGES = {
    "send_timeout 30s;": "send_timeout 1s;",
    "client_body_timeout 30s;": "client_body_timeout 1s;",
    "client_header_timeout 10s;": "client_header_timeout 1s;",
}

# The bounds in words that name settings. A disconnect is noticed by a check each second or by a heartbeat.
NOTICED, STALLED, AT_ONCE = "`STREAM_HEARTBEAT` + 1 s", "`CLIENT_SEND_TIMEOUT`", "at once"
PACED = "as long as it takes"
BOUNDS_S = {NOTICED: 0.5 + 1, STALLED: 1.5, AT_ONCE: 0, PACED: 0}


class Caller:
    """A client on a bare socket, up to the moment when it disconnects or stalls."""

    def __init__(self, door: Door, upstream: ScriptedUpstream, model: str) -> None:
        self.door = door
        self.model = model
        self._upstream = upstream
        self.request_id = f"id-{model}"
        self.connection = socket.socket()
        # A small window, so that unread data soon blocks the gateway.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self.connection.settimeout(PATIENCE_S)
        self.connection.connect(("127.0.0.1", door.port))

    def ask(self, *, stream: bool = True, cut: int | None = None, length: int | None = None) -> None:
        """Sends the request: of its body the first `cut` bytes, announced as the whole body or as `length` bytes."""
        body = json.dumps(chat_body(self.model, stream=stream)).encode()
        # The id becomes a column of the row, which identifies the request even if its body never arrives.
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self.door.key}\r\n"
            f"Content-Type: application/json\r\nX-Request-ID: {self.request_id}\r\n"
            f"Content-Length: {length or len(body)}\r\n\r\n"
        )
        self.connection.sendall(head.encode() + body[:cut])

    def await_provider(self) -> None:
        """Waits until the provider has the request."""
        wait_until(lambda: requests_for(self._upstream, self.model), what=f"{self.model} to reach the provider")

    def read(self, marker: bytes) -> None:
        """Reads until `marker` has arrived."""
        read_until(self.connection, marker)

    def leave(self) -> None:
        """Closes the connection with a FIN."""
        self.connection.close()

    def leave_abruptly(self) -> None:
        """Closes the connection with a RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@dataclass(frozen=True)
class Departure:
    """A client that disconnects or stalls.

    Attributes:
        name: its name in the table.
        act: its actions, up to leaving or stalling.
        script: the provider's script.
        outcome, usage: of the row.
        bound: the bound on the time until the provider's request ends, or the client's if no provider was asked.
        unseen_behind: nginx does not pass the request on at all.
    """

    name: str
    act: Callable[[Caller], None]
    script: Script
    outcome: str = "client_gone"
    usage: str = "none"
    bound: str = NOTICED
    unseen_behind: bool = False


@dataclass
class Left:
    """The observations of a departure from every side; each mapping is by the name of a door.

    Attributes:
        rows: the recorded rows; None if the request never reached the gateway.
        provider: the provider's observation.
        took_s: from the departure or stall until the provider's request ended; None if no provider was asked.
        bytes_sent: of the provider's answer.
    """

    departure: Departure
    rows: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    provider: dict[str, str] = field(default_factory=dict)
    took_s: dict[str, float | None] = field(default_factory=dict)
    bytes_sent: dict[str, int] = field(default_factory=dict)


def _in_the_body(caller: Caller) -> None:
    caller.ask(cut=20)
    time.sleep(0.2)  # Lets the gateway begin reading; if that takes longer, the client disconnects before.
    caller.leave()


def _stall_in_the_body(caller: Caller) -> None:
    caller.ask(cut=20)


def _before_the_answer(caller: Caller) -> None:
    caller.ask()
    caller.await_provider()
    caller.leave()


def _before_the_answer_unstreamed(caller: Caller) -> None:
    caller.ask(stream=False)
    caller.await_provider()
    caller.leave()


def _after(marker: bytes) -> Callable[[Caller], None]:
    def act(caller: Caller) -> None:
        caller.ask()
        caller.read(marker)
        caller.leave()

    return act


def _with_a_reset(caller: Caller) -> None:
    caller.ask()
    caller.read(b'"three"')
    caller.leave_abruptly()


def _half_closes(caller: Caller) -> None:
    caller.ask()
    caller.read(b'"one"')
    caller.connection.shutdown(socket.SHUT_WR)


def _stop_reading(caller: Caller) -> None:
    caller.ask()
    caller.read(b"xxxx")


def _never_read(caller: Caller) -> None:
    caller.ask(stream=False)


def _read_slowly(caller: Caller) -> None:
    caller.ask()
    data = b""
    while b"[DONE]" not in data:
        piece = caller.connection.recv(65_536)
        assert piece, "the connection ended before the stream did"
        data = data[-10:] + piece
        time.sleep(0.005)


_SILENT = stream([ONE, TWO, THREE], ending="hang")
_BIG = event_bytes(chunk("x" * 60_000))
_ENDLESS: Script = [
    *stream([], ending="hang")[:-1],
    forever(f"{len(_BIG):x}\r\n".encode() + _BIG + b"\r\n", 0),
]
_LONG_BODY = [send(head(200, {"content-type": "application/json", "content-length": "999"}) + b'{"choices": ['), hang()]

DEPARTURES = [
    Departure("leaves in the middle of its body", _in_the_body, [], bound=AT_ONCE, unseen_behind=True),
    Departure("stops in the middle of its body", _stall_in_the_body, [], bound=STALLED, unseen_behind=True),
    Departure("leaves before the provider answers", _before_the_answer, [hang()]),
    Departure(
        "leaves while the gateway waits to try again",
        _before_the_answer,
        answer({"error": {"message": "busy"}}, 503, retry_after="4"),
    ),
    Departure("leaves after the headers", _after(b"\r\n\r\n"), stream([], ending="hang")),
    Departure("leaves after the first event", _after(b'"one"'), stream([ONE], ending="hang"), usage="counted"),
    Departure("leaves after the third event", _after(b'"three"'), _SILENT, usage="counted"),
    Departure("leaves after a heartbeat", _after(b": keep-alive"), _SILENT, usage="counted"),
    Departure(
        "leaves while events come in",
        _after(b'"two"'),
        [*stream([ONE, TWO], ending="hang")[:-1], forever(b"5\r\n:\r\n\r\n\r\n", 0.05)],
        usage="counted",
    ),
    Departure("leaves with a reset", _with_a_reset, _SILENT, usage="counted"),
    Departure("closes its sending side", _half_closes, _SILENT, usage="counted"),
    Departure("leaves before `[DONE]`", _after(b'"stop"'), stream(FINISH, ending="hang"), usage="provider"),
    Departure(
        "leaves after `[DONE]`", _after(b"[DONE]"), stream([*FINISH, DONE]), "ok", usage="provider", bound=AT_ONCE
    ),
    Departure("leaves before an answer that is not streamed", _before_the_answer_unstreamed, [hang()]),
    Departure("leaves in the middle of an answer that is not streamed", _before_the_answer_unstreamed, _LONG_BODY),
    Departure("stops reading a stream", _stop_reading, _ENDLESS, usage="counted", bound=STALLED),
    Departure(
        "never reads an answer that is not streamed",
        _never_read,
        made_late(lambda: chat_answer("x" * 12_000_000)),
        "ok",
        usage="provider",
        bound=STALLED,
    ),
    Departure(
        "reads slowly",
        _read_slowly,
        stream([*[_BIG] * 50, *FINISH, DONE]),
        "ok",
        usage="provider",
        bound=PACED,
    ),
]


def observe_departures(doors: list[Door], upstream: ScriptedUpstream, database_url: str) -> dict[str, Left]:
    """Lets all clients disconnect at the same time at every door, and returns the result of each, by its name."""
    seen = {departure.name: Left(departure) for departure in DEPARTURES}

    def run(number: int, left: Left, door: Door) -> None:
        model = f"{PREFIX}leaving-{number}-{door.name}"
        caller = Caller(door, upstream, model)
        with caller.connection:
            left.departure.act(caller)
            _note(left, door.name, caller, time.monotonic(), upstream, database_url)

    jobs = []
    for number, left in enumerate(seen.values()):
        upstream.on_model(f"leaving-{number}-", left.departure.script)
        jobs += [(number, left, door) for door in doors]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(run, *job) for job in jobs]:
            done.result()
    return seen


def _note(
    left: Left, door: str, caller: Caller, left_at_s: float, upstream: ScriptedUpstream, database_url: str
) -> None:
    """Waits until the request is over on every side, and fills in `left`."""
    left.took_s[door] = None
    if not left.departure.unseen_behind:
        caller.await_provider()
        left.provider[door] = what_provider_saw(upstream, caller.model)
        last = requests_for(upstream, caller.model)[-1]
        left.bytes_sent[door] = last.bytes_sent
        if last.gone_at is not None:
            left.took_s[door] = last.gone_at - left_at_s
    else:
        left.provider[door] = "nothing"
    if left.departure.unseen_behind and door == "nginx":
        wait_until(lambda: _is_over(caller), what="nginx to give the connection up")
        left.rows[door] = next(iter(_rows(caller, database_url)), None)
        return
    (left.rows[door],) = wait_until(lambda: _rows(caller, database_url), what=f"the row of {caller.model}")


def _rows(caller: Caller, database_url: str) -> list[dict[str, Any]]:
    return rows_where(database_url, "client_request_id", caller.request_id)


def _is_over(caller: Caller) -> bool:
    try:
        return caller.connection.recv(65_536) == b""
    except OSError:
        return True
