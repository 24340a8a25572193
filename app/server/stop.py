"""A stop of the whole gateway: one log line, and a flag by which workers distinguish it from their replacement."""

from __future__ import annotations

import mmap
import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from gunicorn.errors import HaltServer

from app.server.life_log import log_life
from app.server.restart import Predecessors


def set_up_stop(server: Any, predecessors: Predecessors) -> None:
    """Makes a stop write a line and end all workers at the socket, including those of earlier main processes.

    A worker also gets SIGTERM when another one replaces it. So before a stop `server.gateway_stops[0]` becomes 1, in
    memory that this process shares with the workers that it has started since its last reload. Workers from before a
    reload or a restart do not see it: they are being replaced anyway, and drain as if others served.

    Args:
        server: gunicorn's arbiter.
        predecessors: workers of earlier main processes; otherwise these would keep the socket open.
    """
    stop, reap_workers = server.stop, server.reap_workers
    server.gateway_stops = mmap.mmap(-1, 1)

    def reap_quietly() -> None:
        # gunicorn stops when a worker cannot start. A second such worker would raise out of that stop and cut it short.
        with suppress(HaltServer):
            reap_workers()

    def stop_all(graceful: bool = True) -> None:
        server.stop = stop  # gunicorn stops a second time after SIGINT and SIGQUIT.
        seconds = server.cfg.graceful_timeout if graceful else 0
        deadline_s = time.monotonic() + seconds
        log_life("drain_started", graceful=graceful, seconds=seconds)
        server.gateway_stops[0] = 1
        server.reap_workers = reap_quietly
        predecessors.retire(signal.SIGTERM if graceful else signal.SIGQUIT)
        stop(graceful)
        predecessors.wait(deadline_s)

    server.stop = stop_all


def stop_while_checking(server: Any, check: int) -> None:
    """Makes SIGTERM and SIGINT stop this process cleanly until gunicorn has its own handlers.

    Args:
        server: gunicorn's arbiter.
        check: the id of the process that checks whether the gateway can start.
    """

    def halt(number: int, frame: FrameType | None) -> None:
        with suppress(ChildProcessError):  # Its end was waited for, and its id may belong to another process by now.
            if os.waitpid(check, os.WNOHANG)[0] == 0:
                os.kill(check, signal.SIGKILL)
        server.halt()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, halt)
