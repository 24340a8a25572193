"""Tells gunicorn's main process that its workers are ready: each writes a byte into a pipe.

Until all are ready, the workers from before a reload keep serving, so that nobody has to wait for a start.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from app.server.life_log import log_life
from app.server.reload import retire_old_workers
from app.server.restart import Predecessors


class WorkerStarts:
    """Watches the first start of a gateway's workers.

    Args:
        server: gunicorn's arbiter, which has adopted the old workers but has not started its own.
        predecessors: workers of another main process, which are also told to drain.

    Attributes:
        others_serve: whether there are or were serving workers, so that one that cannot start must not end them.
    """

    def __init__(self, server: Any, predecessors: Predecessors) -> None:
        self._predecessors = predecessors
        self._server = server
        self._wanted = server.num_workers
        self._ready = 0
        self.others_serve = bool(server.WORKERS or predecessors.serving)
        self._begun_s = time.monotonic()
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._manage_workers = server.manage_workers
        # gunicorn starts workers up to this number, and ends those above it, the oldest first.
        server.num_workers = self._wanted + len(server.WORKERS)
        server.manage_workers = self._watch

    def tell(self) -> None:
        """Tells the main process that this worker is ready; each worker calls it once."""
        with suppress(OSError):  # Nobody reads any more once the first start is over.
            os.write(self._write, b".")

    def _watch(self) -> None:
        """Starts and ends workers like gunicorn, which calls this once a second and when a worker has ended."""
        with suppress(BlockingIOError):
            self._ready += len(os.read(self._read, 1024))
        if self._ready >= self._wanted:
            self._server.manage_workers = self._manage_workers
            self.others_serve = True
            retire_old_workers(self._server)
            self._server.num_workers = self._wanted
            self._predecessors.retire()
            os.close(self._read)
            seconds = round(time.monotonic() - self._begun_s, 1)
            log_life("workers_started", workers=self._wanted, seconds=seconds)
        else:
            self._predecessors.tell()
        self._manage_workers()
