"""Waits for a provider in processes that gevent has patched, as gunicorn's workers are; run with an address and cases.

The event that ends a wait is triggered once the provider has the request, which the provider signals by a byte on this
process's standard input. Each case runs in a fork of this process, which has imported everything, and prints a line:
the error that ended the wait, or "answered".
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import gevent  # noqa: E402
from gevent.socket import wait_read  # noqa: E402

from app.errors import GatewayError  # noqa: E402
from app.runtime import get_component  # noqa: E402
from app.services.inference import cancellation  # noqa: E402
from app.services.inference.cancellation import Watcher  # noqa: E402
from app.services.streaming import ClientConnection  # noqa: E402
from app.shutdown import start_drain  # noqa: E402
from app.upstream import Response  # noqa: E402
from tests.services.inference.chat_core import client_for  # noqa: E402

# Longer than any step takes, even on a busy machine.
TOTAL_S = 60.0


def run(case: str, base_url: str) -> str:
    """Returns the result of a request to a provider that is silent in most cases."""
    vars(cancellation)["PRESENCE_CHECK_S"] = 0.02
    ours, theirs = socket.socketpair()
    client = client_for(base_url)
    watcher = get_component(Watcher)
    gc.disable()  # Objects must be freed at once, and not only when the collector runs.
    before = count_sockets()
    if case != "client leaves afterwards":
        gevent.spawn(end_wait, case, theirs, before)
    try:
        with watcher.watch(ClientConnection(ours), time.monotonic() + TOTAL_S, "Fireworks"):
            response = client.post("/chat/completions", b"{}", stream=False)
    except GatewayError as error:
        ended = f"{type(error).__name__} {error.code}"
    else:
        return read_after_disconnect(response, theirs)
    gevent.sleep(0.1)
    is_client_closed = theirs.fileno() < 0
    left = count_sockets() - before + is_client_closed
    return ended if left == 0 else f"{ended}, {left} sockets left"


def end_wait(case: str, theirs: socket.socket, before: int) -> None:
    """Waits until the request is waiting, then triggers the event that ends it; the process had `before` sockets."""
    if case == "client leaves while connecting":
        while count_sockets() == before:
            gevent.sleep(0.001)
    else:
        wait_read(0)
        os.read(0, 1)
    if case.startswith("client leaves"):
        theirs.close()
    elif case == "deadline":
        vars(cancellation)["time"] = SimpleNamespace(monotonic=lambda: time.monotonic() + TOTAL_S)
    else:
        start_drain(0.05)


def count_sockets() -> int:
    """Returns how many sockets this process holds."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum("socket:" in os.readlink(link) for link in links if os.path.lexists(link))


def read_after_disconnect(response: Response, theirs: socket.socket) -> str:
    """Returns the result of a response whose client disconnects after the wait."""
    # A disconnect after the wait must not be raised in the greenlet's later work.
    theirs.close()
    gevent.sleep(0.1)
    response.read(idle_timeout_s=10, deadline_s=time.monotonic() + 10)
    return f"answered {len(get_component(Watcher).waits)}"


if __name__ == "__main__":
    for name in sys.argv[2:]:
        if (child := os.fork()) == 0:
            print(run(name, sys.argv[1]), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"{name} failed"
