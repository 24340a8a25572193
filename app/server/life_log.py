"""Log lines about the gateway's life: started, workers started, reload, drain, stopped. Each has version and host.

gunicorn's main process writes them, once for the whole gateway and not once per worker.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from app.logs import log_event
from app.version import get_version


def log_life(event: str, *, level: str = "info", **fields: Any) -> None:
    """Writes a line with the version, the host and the process id.

    Args:
        event: the event, as `noun_participle`.
        level: info, warning or error.
        fields: further values.
    """
    log_event(event, level=level, version=get_version(), host=socket.gethostname(), pid=os.getpid(), **fields)


def describe_sockets(server: Any) -> list[str]:
    """Returns the addresses that `server`, gunicorn's arbiter, listens on, whichever process opened the sockets.

    Each is `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/gateway.sock`, or `unix:@name` in the abstract namespace.
    """
    # With `reuse_port` each worker opens its own socket.
    names = [listener.getsockname() for listener in server.LISTENERS] or server.cfg.address
    return [_describe(name) for name in names]


def _describe(name: Any) -> str:
    if not isinstance(name, tuple):
        return "unix:" + (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).replace("\0", "@")
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
