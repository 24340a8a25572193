"""A provider that speaks TLS with a certificate of its own making, and gives every request the same answer."""

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
    """Makes a key and a certificate for 127.0.0.1 that is its own authority; returns (certificate, key)."""
    certificate, key = place / "certificate.pem", place / "key.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=a test"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key), "-out"]
    command += [str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate, key


@contextmanager
def tls_server(
    certificate: Path, key: Path, pieces: Sequence[bytes], every_s: float = 0.0
) -> Iterator[tuple[int, list[int]]]:
    """Answers every request with `pieces`, a pause between them; yields (port, requests on each connection)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    counts: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=_serve, args=(listener, context, pieces, every_s, counts), daemon=True)
        serving.start()
        yield listener.getsockname()[1], counts
        # A thread in accept() is not woken by close() alone.
        listener.shutdown(socket.SHUT_RDWR)
        serving.join(20)


def _serve(
    listener: socket.socket, context: ssl.SSLContext, pieces: Sequence[bytes], every_s: float, counts: list[int]
) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        counts.append(0)
        arguments = (plain, context, pieces, every_s, counts, len(counts) - 1)
        threading.Thread(target=_answer, args=arguments, daemon=True).start()


def _answer(
    plain: socket.socket,
    context: ssl.SSLContext,
    pieces: Sequence[bytes],
    every_s: float,
    counts: list[int],
    number: int,
) -> None:
    with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
        while b"\r\n\r\n" in connection.recv(65_536):
            counts[number] += 1
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(every_s)
