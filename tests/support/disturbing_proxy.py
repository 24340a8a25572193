"""A proxy to a PostgreSQL server that delays, loses and reorders the statements that a test chooses."""

from __future__ import annotations

import itertools
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

_NAME = ".s.PGSQL.5432"
# Longer than a worker's wait for a draw.
_LATE_S = 3.0
FATES = ("sent late", "answer lost", "cut")


class DisturbingProxy:
    """Passes bytes between its own Unix socket and that of a server; `running_disturbing_proxy` starts one.

    A statement with one of the texts may be passed on late, even after its sender has given up and sent others; its
    answer may be late or lost, or its connection cut.

    Attributes:
        url: the address of the database through this proxy.
        counts: the number of disturbances of each kind.
    """

    def __init__(self, directory: Path, url: str, texts: tuple[bytes, ...], every: int) -> None:
        self._target = str(Path(parse_qs(urlsplit(url).query)["host"][0]) / _NAME)
        self._texts, self._every = texts, every
        self._numbers = itertools.count(1)
        self._random = random.Random(1)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / _NAME))
        self._listener.listen(64)
        self.url = f"{url.partition('?')[0]}?host={quote(str(directory), safe='')}"
        self.counts: Counter[str] = Counter()
        self._waiting = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def wait_until_calm(self) -> None:
        """Waits until every statement that was held back has been passed on and answered."""
        while self._waiting:
            time.sleep(0.05)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                lost = threading.Event()
                threading.Thread(target=self._pass_requests, args=(client, server, lost), daemon=True).start()
                threading.Thread(target=self._pass_answers, args=(server, client, lost), daemon=True).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                is_named = any(text in data for text in self._texts)
                fate = self._choose_fate() if is_named else "passed"
                self.counts[fate] += is_named
                if fate == "passed":
                    server.sendall(data)
                else:
                    self._disturb(fate, data, client, server, lost)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _choose_fate(self) -> str:
        turn, rest = divmod(next(self._numbers), self._every)
        return "passed" if rest else FATES[turn % len(FATES)]

    def _disturb(
        self, fate: str, data: bytes, client: socket.socket, server: socket.socket, lost: threading.Event
    ) -> None:
        self._waiting += 1
        try:
            if fate == "sent late":
                time.sleep(self._random.uniform(0.1, _LATE_S))
                server.sendall(data)
                time.sleep(0.2)  # The server carries it out, even if its sender is gone.
            else:
                lost.set()
                server.sendall(data)
                if fate == "cut":
                    client.shutdown(socket.SHUT_RDWR)
                time.sleep(0.2)
        finally:
            self._waiting -= 1

    def _pass_answers(self, server: socket.socket, client: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if not lost.is_set():
                    with suppress(OSError):
                        client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        server.close()


@contextmanager
def running_disturbing_proxy(url: str, *texts: bytes, every: int) -> Iterator[DisturbingProxy]:
    """A proxy to the database at `url`, for the length of a `with` block.

    Args:
        url: the address of the database.
        texts: statements with one of them may be disturbed.
        every: one in so many is disturbed.
    """
    # The path of a socket must be short, and pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="proxy-") as directory:
        proxy = DisturbingProxy(Path(directory), url, texts, every)
        try:
            yield proxy
        finally:
            proxy.close()
