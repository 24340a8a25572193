"""An OpenAI-style upstream on a raw socket that runs a test's scripts and records the requests that it gets.

A script is a list of steps (scripts.py; scripts of complete responses: answers.py). The script for a
request is chosen in this order: the queue (`enqueue`), a marker inside the request's model name (`on_model`),
the end of its path (`on_path`), the default. When a script runs out the connection is kept alive for the next
request; a step may close it instead. Threads only: the test process is not patched by gevent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

from tests.support.answers import catalog_answer, chat_answer
from tests.support.request_reader import SeenRequest, read_request
from tests.support.scripts import Exchange, Gate, Hangup, PeerGone, Script
from tests.support.waiting import PATIENCE_S

# A thousand threads of the default 8 MiB would reserve 8 GiB of address space; scripts need little stack.
_STACK_BYTES = 256 * 1024
# The kernel's usual ceiling (somaxconn): a burst of a thousand connections must not overflow the queue.
_BACKLOG = 4096


class ScriptedUpstream:
    """A listening upstream; use it as a context manager.

    Attributes:
        base_url: the value for a provider's base URL setting, such as `http://127.0.0.1:4711/inference/v1`.
        settings: the settings that make a gateway use it as Fireworks.
        requests: every request read so far, in order; the oracle of a test.
        on_accept: steps that run when a connection is accepted, before anything is read from it.
        default: the script of requests that no other script is for.
        connections: how many connections were accepted so far.
        queues_lists: whether enqueued scripts may be for lists of models too, which a gateway may fetch at any time.
    """

    def __init__(self, *, reads: bool = True, host: str = "127.0.0.1") -> None:
        """Listens on a free port of `host`; with `reads=False` it accepts and never reads a byte."""
        self.queues_lists = True
        self.requests: list[SeenRequest] = []
        self.on_accept: Script = []
        self.default: Script = chat_answer("Hello from the script.")
        self.connections = 0
        self._reads = reads
        self._queue: deque[Script] = deque()
        self._by_model: dict[str, Script] = {}
        self._by_path: dict[str, Script] = {"/models": catalog_answer("accounts/fireworks/models/scripted")}
        self._changed = threading.Condition()
        self._stop = Gate()
        self._threads: set[threading.Thread] = set()
        self._listener = socket.create_server((host, 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self.base_url = f"http://{host}:{self.port}/inference/v1"
        self.settings = {"FIREWORKS_BASE_URL": self.base_url, "FIREWORKS_API_KEY": "fw_test"}
        self._acceptor = threading.Thread(target=self._accept_forever, daemon=True, name="upstream-accept")
        self._acceptor.start()

    def __enter__(self) -> ScriptedUpstream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def enqueue(self, *scripts: Script) -> None:
        """Makes `scripts` respond to the next requests of any kind, one each."""
        with self._changed:
            self._queue.extend(scripts)

    def on_model(self, marker: str, script: Script) -> None:
        """Makes `script` respond to requests whose model name contains `marker`; the longest marker wins."""
        with self._changed:
            self._by_model[marker] = script

    def on_path(self, ending: str, script: Script) -> None:
        """Makes `script` respond to requests whose path (without its query) ends in `ending`."""
        with self._changed:
            self._by_path[ending] = script

    def reset_scripts(self) -> None:
        """Removes all scripts and all recorded requests, so that one upstream can serve many tests."""
        with self._changed:
            self.requests = []
            self.queues_lists = True
            self.on_accept, self.default = [], chat_answer("Hello from the script.")
            self._queue.clear()
            self._by_model.clear()
            self._by_path = {"/models": catalog_answer("accounts/fireworks/models/scripted")}

    @property
    def calls(self) -> list[SeenRequest]:
        """Every request for a model read so far; `requests` also has those for lists of models."""
        return [seen for seen in self.requests if seen.body]

    def wait_for(self, predicate: Callable[[SeenRequest], object], timeout_s: float = PATIENCE_S) -> SeenRequest:
        """Returns the first request for which `predicate` holds, waiting until there is one.

        Raises:
            AssertionError: none within `timeout_s` seconds; the message lists what was seen.
        """
        with self._changed:
            self._changed.wait_for(lambda: any(predicate(seen) for seen in self.requests), timeout_s)
            for seen in self.requests:
                if predicate(seen):
                    return seen
        raise AssertionError(f"no such request within {timeout_s} s among {self.requests}")

    def wait_for_count(self, count: int, timeout_s: float = PATIENCE_S) -> list[SeenRequest]:
        """Returns the requests once there are at least `count` of them.

        Raises:
            AssertionError: fewer after `timeout_s` seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self.requests) >= count, timeout_s)
            assert len(self.requests) >= count, f"{len(self.requests)} of {count} requests: {self.requests}"
            return list(self.requests)

    def live_connections(self) -> int:
        """Returns how many connections are open now, idle kept-alive ones included."""
        with self._changed:
            return len(self._threads)

    def close(self) -> None:
        """Stops listening, ends all scripts and joins their threads."""
        self._stop.open()
        self._acceptor.join(PATIENCE_S)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(PATIENCE_S)
        self._stop.close()

    def _accept_forever(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._stop, select.POLLIN | select.POLLHUP)
        while not self._stop.is_open:
            poller.poll()
            if self._stop.is_open:
                return
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start_thread(connection)

    def _start_thread(self, connection: socket.socket) -> None:
        previous_bytes = threading.stack_size(_STACK_BYTES)
        with self._changed:
            self.connections += 1
            peer = (connection, self.connections)
            thread = threading.Thread(target=self._serve, args=peer, daemon=True, name="upstream-peer")
            self._threads.add(thread)
        thread.start()
        threading.stack_size(previous_bytes)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with connection, contextlib.suppress(Hangup, PeerGone, OSError):
                self._serve_requests(connection, number)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _serve_requests(self, connection: socket.socket, number: int) -> None:
        connection.setblocking(False)
        exchange = Exchange(connection, self._stop, self._notify)
        _run(self.on_accept, exchange)
        if not self._reads:
            exchange.wait()
        buffer = bytearray()
        reused = False
        while (seen := read_request(exchange.receive, buffer)) is not None:
            seen.connection, seen.reused = number, reused
            exchange.seen = seen
            _run(self._choose(seen), exchange)
            exchange.finish()
            reused = True

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _choose(self, seen: SeenRequest) -> Script:
        model = seen.json.get("model") if isinstance(seen.json, dict) else None
        with self._changed:
            self.requests.append(seen)
            self._changed.notify_all()
            if self._queue and (self.queues_lists or seen.body):
                return self._queue.popleft()
            return (
                _longest(self._by_model, lambda marker: marker in str(model or ""))
                or _longest(self._by_path, seen.path.partition("?")[0].endswith)
                or self.default
            )


def _run(script: Script, exchange: Exchange) -> None:
    for step in script:
        step(exchange)


def _longest(scripts: dict[str, Script], fits: Callable[[str], bool]) -> Script | None:
    fitting = [name for name in scripts if fits(name)]
    return scripts[max(fitting, key=len)] if fitting else None


@contextlib.contextmanager
def refused_address(port: int = 0) -> Iterator[str]:
    """Yields a base URL whose port, by default any, is taken but not listening: every connect is refused."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/inference/v1"


@contextlib.contextmanager
def unanswered_address(port: int = 0) -> Iterator[str]:
    """Yields a base URL where connecting hangs: its accept queue is full, so the kernel drops each SYN."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        full = False
        while not full:
            filler = fillers.enter_context(socket.socket())
            filler.settimeout(0.3)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                full = True
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/inference/v1"
