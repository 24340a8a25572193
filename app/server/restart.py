"""A stop and a start without a gap: the workers of before serve until those of the new start are ready.

systemd holds the listening socket (deploy/gateway.socket), so it refuses no connection between a stop and a start. But
a stop lasts as long as the drain, and connections would wait for it. With RESTART_HANDOVER the main process ends at
once on SIGTERM, so the next one can start, and its workers go on. The next one tells them to drain when its own workers
are ready. If none comes, they drain by themselves. If one ends before its workers are ready, it hands all of them on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.server.life_log import log_life

# How long workers serve after the end of their main process or the last sign of a start, in seconds.
SERVES_ON_S = 10.0


class _Orphan:
    """Whether this worker serves on without a main process, and since when it has none, on the monotonic clock.

    Attributes:
        file: the file about the workers, by whose time a start shows that it goes on; None if none serves on.
    """

    file: Path | None = None
    since_s: float | None = None


def set_up_handover(server: Any, path: Path, predecessors: list[int]) -> None:
    """Makes SIGTERM end the main process at once; the workers that it starts from now on serve on.

    Args:
        server: gunicorn's arbiter.
        path: the file in which the next start finds the workers.
        predecessors: workers of earlier main processes that were not told to drain yet. Where one start follows another
            before its workers are ready, only these serve, so they are handed over too.
    """
    _Orphan.file = path

    def hand_over() -> None:
        pids = (*predecessors, *server.WORKERS)
        workers = {pid: started for pid in pids if (started := _read_start(pid)) is not None}
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(workers))
        unfinished.replace(path)
        log_life("workers_handed_over", workers=len(workers))
        if server.pidfile is not None:
            server.pidfile.unlink()
        sys.exit(0)

    def on_term() -> None:
        try:
            hand_over()
        except OSError as error:
            log_life("handover_failed", level="error", reason=f"{path} cannot be written ({error}).")
            raise StopIteration from None  # As gunicorn stops.

    server.handle_term = on_term


def take_predecessors(path: Path) -> list[int]:
    """Returns the workers of the main processes before this one that still live."""
    try:
        workers = {int(pid): str(started) for pid, started in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return []
    # The id of a process that has ended may be another's by now.
    return [pid for pid, started in workers.items() if _read_start(pid) == started]


def tell_predecessors(path: Path) -> None:
    """Tells workers of main processes before this one that a start goes on, so that they serve until it is done."""
    with suppress(OSError):
        os.utime(path)


def retire_predecessors(path: Path, workers: list[int]) -> None:
    """Tells workers of main processes before this one to drain, and forgets them."""
    path.unlink(missing_ok=True)
    while workers:
        with suppress(ProcessLookupError):
            os.kill(workers.pop(), signal.SIGTERM)


def is_serving_on(ppid: int) -> bool:
    """Returns whether this worker goes on although its main process, `ppid`, may have ended; begins its drain in time.

    A worker calls it once a second.
    """
    if _Orphan.file is None or os.getppid() == ppid:
        return False
    now_s = time.monotonic()
    if _Orphan.since_s is None:
        _Orphan.since_s = now_s
    elif now_s - _Orphan.since_s > SERVES_ON_S and not _is_recent(_Orphan.file):
        _Orphan.since_s = float("inf")
        os.kill(os.getpid(), signal.SIGTERM)
    return True


def _is_recent(path: Path) -> bool:
    try:
        return 0 <= time.time() - path.stat().st_mtime < SERVES_ON_S
    except OSError:
        return False


def _read_start(pid: int) -> str | None:
    """Returns when a process started, in the kernel's ticks; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
