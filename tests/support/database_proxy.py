"""A proxy to a PostgreSQL server that a test can cut while all other connections to the server go on."""

from __future__ import annotations

import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

_NAME = ".s.PGSQL.5432"


class DatabaseProxy:
    """Passes bytes between its own Unix socket and that of a server; `running_database_proxy` starts one.

    Attributes:
        url: the address of the database through this proxy.
        messages: the number of clients' messages passed on; a client waits for the answer to one before the next.
    """

    def __init__(self, directory: Path, url: str) -> None:
        self._place = directory / _NAME
        self._target = str(Path(parse_qs(urlsplit(url).query)["host"][0]) / _NAME)
        self.url = f"{url.partition('?')[0]}?host={quote(str(directory), safe='')}"
        self.messages = 0
        self._listener: socket.socket | None = None
        self._clients: list[socket.socket] = []
        self._passes = threading.Event()
        self._passes.set()

    def freeze(self) -> None:
        """Passes nothing on until `thaw`, while connections stay open, as if a cable were cut."""
        self._passes.clear()

    def thaw(self) -> None:
        """Passes on the data that arrived meanwhile."""
        self._passes.set()

    def open_to_all(self) -> None:
        """Lets programs of all users of this machine connect; the server sees them as this process's user."""
        self._place.parent.chmod(0o755)
        self._place.chmod(0o777)

    def mend(self) -> None:
        """Lets connections through from now on."""
        listener = self._listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._place))
        listener.listen(64)
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()

    def cut(self) -> None:
        """Ends all connections, and refuses new ones until `mend`."""
        if self._listener is None:
            return
        self._place.unlink()
        for one in (self._listener, *self._clients):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._clients.clear()
        self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._target)
            while True:
                for source in select.select([client, server], [], [])[0]:
                    self._passes.wait()
                    data = source.recv(65_536)
                    if not data:
                        return
                    self.messages += source is client
                    (server if source is client else client).sendall(data)


@contextmanager
def running_database_proxy(url: str) -> Iterator[DatabaseProxy]:
    """A proxy to the database at `url`, which lets connections through, for the length of a `with` block."""
    # The path of a socket must be short, and pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="proxy-") as directory:
        proxy = DatabaseProxy(Path(directory), url)
        proxy.mend()
        try:
            yield proxy
        finally:
            proxy.thaw()
            proxy.cut()
