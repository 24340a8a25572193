"""The lines about the life of a gateway: started, workers started, reload, drain, stopped. Each says which code, where.

gunicorn's main process writes them, one for the whole gateway and not one for each worker.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from app.logs import log_event
from app.version import get_version


def log_life(event: str, *, level: str = "info", **fields: Any) -> None:
    """Writes a line with the version, the host and the id of the process.

    Args:
        event: what happened, as `noun_participle`.
        level: info, warning or error.
        fields: further values.
    """
    log_event(event, level=level, version=get_version(), host=socket.gethostname(), pid=os.getpid(), **fields)


def log_drain(server: Any) -> None:
    """Makes `server`, gunicorn's arbiter, write a line when it begins to stop."""
    stop = server.stop

    def stop_and_tell(graceful: bool = True) -> None:
        server.stop = stop  # gunicorn stops a second time after SIGINT and SIGQUIT.
        log_life("drain_started", graceful=graceful, seconds=server.cfg.graceful_timeout if graceful else 0)
        stop(graceful)

    server.stop = stop_and_tell
