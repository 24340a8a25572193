"""Prints which files of app/ one warm chat request goes through: `python -m benchmarks.trace`.

The gateway runs as it is shipped: gunicorn with its own configuration and worker class, an embedded PostgreSQL, and a
small provider in this process. Its worker runs a profiler (traced.py). First, several requests are sent over one
connection, so that the key is known, the model list is loaded and a connection to the provider is open. Then an
unstreamed request is traced, and a streamed one with 50 content events, each in a packet of its own.

Counted are calls of Python functions whose code is in app/, including lambdas, comprehensions and each resumption of a
generator, from the first byte of the request until the worker waits for the next one. They are counted in the greenlet
that serves the connection, in gevent's hub, which relays events, and in greenlets that the request starts.

Not counted are library calls, background work (shipping the journal, the gauges), and returns. When a called file
returns, the calling file is not entered again until it calls another function of its own.

    calls           the number of all calls
    files entered   the number of files with at least one call
    switches        the number of calls into another file than the call before
    entries         the number of switches into this file; for the first file, its first call counts too
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from app.config import ROOT
from app.dev import EmbeddedPostgres
from benchmarks.gateways import copy_tree, prepare_database, start_gateway
from benchmarks.machine import choose_cores
from benchmarks.peers import MODEL

EVENTS = 50
# The provider sends an event once the caller has received the previous one. It waits at most this long, because the
# gateway does not pass on an event that has only usage.
_LONGEST_WAIT_S = 0.1
# After the response the worker still finishes the record and waits for the connection's next request.
_SETTLE_S = 0.3
_WARM_UP_REQUESTS = 3

_USAGE = {"prompt_tokens": 12, "completion_tokens": EVENTS, "total_tokens": 12 + EVENTS}
# Counts the received events after which the provider has not yet sent the next one.
_event_received = threading.Semaphore(0)
_HEAD = {"id": "chatcmpl-trace", "created": 1_763_800_000, "model": MODEL}


class _Provider(BaseHTTPRequestHandler):
    """Responds as Fireworks does: a list of one model, and completions of `EVENTS` words."""

    protocol_version = "HTTP/1.1"
    # Each event is a packet of its own; Nagle's algorithm would hold it back until the previous one is acknowledged.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": MODEL, "object": "model", "supports_chat": True}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("stream"):
            self._send_stream()
            return
        message = {"role": "assistant", "content": "word " * EVENTS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._send(_HEAD | {"object": "chat.completion", "choices": [choice], "usage": _USAGE})

    def _send(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in _events():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            _event_received.acquire(timeout=_LONGEST_WAIT_S)
        done = b"data: [DONE]\n\n"
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the server quiet."""


def _events() -> Iterator[bytes]:
    """Yields the events of a stream before [DONE]: `EVENTS` with a word, one with the finish reason, one with usage."""
    word = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    for choices in [*[[word]] * EVENTS, [end]]:
        yield _event({"choices": choices})
    yield _event({"choices": [], "usage": _USAGE})


def _event(rest: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(_HEAD | {"object": "chat.completion.chunk"} | rest).encode() + b"\n\n"


@contextmanager
def _running_provider() -> Iterator[str]:
    """Runs the provider during a `with` block; yields its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/inference/v1"
    finally:
        server.shutdown()


@dataclass
class Way:
    """The files that one request went through.

    Attributes:
        entries: how often each file was entered, in the order of first entry.
        steps: every entry in order: the file, and the function that was called.
        calls: the number of calls, including those within a file.
    """

    entries: dict[str, int] = field(default_factory=dict)
    steps: list[tuple[str, str]] = field(default_factory=list)
    calls: int = 0

    @property
    def switches(self) -> int:
        """The number of calls from one file into another."""
        return len(self.steps) - 1


@dataclass(frozen=True)
class Sent:
    """The start and end of a request, in seconds on the monotonic clock that all processes share."""

    began_s: float
    ended_s: float


class Caller:
    """A client with one connection and a key."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def chat(self, *, stream: bool) -> Sent:
        """Sends a chat request and reads the response; returns the times."""
        body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "Hello!"}]}
        began_s = time.monotonic()
        self._ask("POST", "/v1/chat/completions", json.dumps(body))
        return Sent(began_s, time.monotonic())

    def get_calls(self) -> dict[str, Any]:
        """Returns the calls that the worker's profiler recorded; see traced.py."""
        calls: dict[str, Any] = json.loads(self._ask("GET", "/trace"))
        return calls

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        lines = []
        while line := response.readline():
            lines.append(line)
            if line.startswith(b"data: {"):
                _event_received.release()
        content = b"".join(lines) + response.read()  # Without this read the connection could not be used again.
        if response.status != 200:
            sys.exit(f"{path} returned {response.status}: {content.decode(errors='replace')}")
        return content


def find_way(traced: dict[str, Any], sent: Sent) -> Way:
    """Returns the files that one request went through.

    Args:
        traced: the calls that the worker's profiler recorded.
        sent: the request; the worker served no other request meanwhile.
    """
    own = {traced["connection"], traced["hub"]}
    others = {who for when_s, who, _, _ in traced["calls"] if when_s < sent.began_s} - own
    way, last = Way(), None
    for when_s, who, file, function in traced["calls"]:
        if not sent.began_s <= when_s < sent.ended_s + _SETTLE_S or who in others:
            continue
        way.calls += 1
        if file != last:
            way.entries[file] = way.entries.get(file, 0) + 1
            way.steps.append((file, function))
            last = file
    return way


def trace(tree: Path) -> dict[str, Way]:
    """Returns the files that an unstreamed and a streamed request go through in the gateway of a checkout."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trace-", ignore_cleanup_errors=True)))
        place.chmod(0o711)  # If this is root, PostgreSQL runs as another account, which must reach its data.
        copy_tree(tree, place / "tree")
        if tree != ROOT:
            shutil.copy(Path(__file__).with_name("traced.py"), place / "tree" / "benchmarks")
        postgres = EmbeddedPostgres(place / "postgres", durable=False)
        stack.callback(postgres.close)
        postgres.start()
        database_url = postgres.ensure_database("gateway")
        settings = {
            "DATABASE_URL": database_url,
            "FIREWORKS_API_KEY": "fw_REPLACE_ME",
            "FIREWORKS_BASE_URL": stack.enter_context(_running_provider()),
            "COMPILED_EVENTS": os.environ.get("COMPILED_EVENTS", "true"),
        }
        key = prepare_database(place / "tree", database_url)
        gateway = start_gateway(
            place / "tree", place / "gateway", settings, cores=choose_cores().both, application="benchmarks.traced:app"
        )
        stack.callback(gateway.child.stop)
        return _trace(Caller(gateway.port, key))


def _trace(caller: Caller) -> dict[str, Way]:
    sent = {}
    for name, stream in {"Not streamed": False, f"Streamed, {EVENTS} content events": True}.items():
        for _ in range(_WARM_UP_REQUESTS):
            caller.chat(stream=stream)
        time.sleep(_SETTLE_S)
        sent[name] = caller.chat(stream=stream)
        time.sleep(_SETTLE_S)
    calls = caller.get_calls()
    return {name: find_way(calls, request) for name, request in sent.items()}


def main() -> None:
    """Prints the files of both requests."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description="The files of one chat request.")
    parser.add_argument("--tree", type=Path, default=ROOT, help="another checkout to trace instead of this one")
    parser.add_argument("--steps", action="store_true", help="print each entry in order, with its function")
    options = parser.parse_args()
    for name, way in trace(options.tree.resolve()).items():
        print(f"\n{name}\n\n{'entries':>9}  file")
        for file, entries in way.entries.items():
            print(f"{entries:>9}  app/{file}")
        if options.steps:
            print("\n" + "\n".join(f"{number:>9}  app/{file}  {what}" for number, (file, what) in enumerate(way.steps)))
        print(f"\ncalls: {way.calls}, files entered: {len(way.entries)}, switches: {way.switches}")


if __name__ == "__main__":
    main()
