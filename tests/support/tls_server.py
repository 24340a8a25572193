"""A provider that speaks TLS with a self-signed certificate and sends the same response to every request."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def make_certificate(place: Path) -> tuple[Path, Path]:
    """Makes a key and a self-signed certificate for 127.0.0.1; returns (certificate, key)."""
    certificate, key = place / "certificate.pem", place / "key.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=a test"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key), "-out"]
    command += [str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate, key


class TlsServer:
    """A provider on a free port of 127.0.0.1; use it as a context manager.

    Attributes:
        pieces: the response to every request, sent piece by piece.
        every_s: seconds between two pieces.
        counts: the number of requests on each connection.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.pieces: Sequence[bytes] = []
        self.every_s = 0.0
        self.counts: list[int] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> TlsServer:
        return self

    def __exit__(self, *_: object) -> None:
        # A thread in accept() is not woken by close() alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._serving.join(20)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.counts.append(0)
            threading.Thread(target=self._respond, args=(connection, len(self.counts) - 1), daemon=True).start()

    def _respond(self, plain: socket.socket, number: int) -> None:
        with plain, suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
            while b"\r\n\r\n" in connection.recv(65_536):
                self.counts[number] += 1
                for piece in self.pieces:
                    connection.sendall(piece)
                    time.sleep(self.every_s)


@contextmanager
def tls_server(
    certificate: Path, key: Path, pieces: Sequence[bytes], every_s: float = 0.0
) -> Iterator[tuple[int, list[int]]]:
    """A `TlsServer` with one response for the length of a `with` block; yields its port and its `counts`."""
    with TlsServer(certificate, key) as server:
        server.pieces, server.every_s = pieces, every_s
        yield server.port, server.counts
