"""Sends messages to receivers that never answer, in a process that gevent has patched.

Prints a line for each: why it failed, whether another greenlet ran meanwhile, and how many sockets are left open.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from app.upstream import deliver  # noqa: E402
from app.upstream.connection_pool import get_tls_context  # noqa: E402

TIMEOUT_S = 0.3


def count_sockets() -> int:
    """Returns how many sockets this process holds."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum("socket:" in os.readlink(link) for link in links if os.path.lexists(link))


def drip_head(listener: socket.socket) -> None:
    """Accepts one connection, and sends a head that never ends."""
    peer, _ = listener.accept()
    with peer:
        peer.sendall(b"HTTP/1.1 200 OK\r\nx-long: ")
        try:
            while True:
                gevent.sleep(0.02)
                peer.sendall(b"x")
        except OSError:
            return


def run(case: str) -> str:
    """Returns the result of sending the message."""
    beats: list[int] = []

    def beat() -> None:
        while True:
            beats.append(1)
            gevent.sleep(0.01)

    if case == "name":
        vars(socket)["getaddrinfo"] = lambda *args, **options: gevent.sleep(60)
    if case == "addresses":
        # Each of the addresses could use up the whole time.
        entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 9))
        vars(socket)["getaddrinfo"] = lambda *args, **options: [entry] * 10
        socket.socket.connect = lambda self, address: gevent.sleep(60)  # type: ignore[method-assign]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        others = [gevent.spawn(beat)] + ([gevent.spawn(drip_head, listener)] if case == "drip" else [])
        before = count_sockets()
        url = f"{'https' if case == 'tls' else 'http'}://127.0.0.1:{listener.getsockname()[1]}/hook"
        reason = deliver(url, {}, b"{}", TIMEOUT_S)
        # About thirty on an idle machine; a call that blocks the process allows none.
        meanwhile = len(beats)
        gevent.sleep(0.1)
        left = count_sockets() - before
    gevent.killall(others)
    return f"{case}: {reason}, {'others ran' if meanwhile > 3 else 'others waited'}, {left} sockets left"


if __name__ == "__main__":
    # A process loads the CA certificates once, which on a busy machine takes as long as a message may.
    get_tls_context()
    for each in ("drip", "tls", "name", "addresses"):
        sys.stdout.write(run(each) + "\n")
