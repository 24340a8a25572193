"""A restart without a gap: the old workers serve until those of the new start are ready.

systemd holds the listening socket (deploy/gateway.socket), so no connection is refused between a stop and a start. But
a stop lasts as long as the drain, and connections would wait for it. A restart begins with the same signal as a stop,
unless the unit names another one (RestartKillSignal). With RESTART_HANDOVER the main process ends at once on that one,
so that the next can start, and its workers go on. The next tells them to drain when its own workers are ready. If none
comes, they drain by themselves. If one is restarted before its workers are ready, it hands all of them on.

A main process may also be killed. So it notes its workers in the handover file whenever they change, together with
itself: as long as it lives, the workers are its own, and no other process tells them to drain.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.server.life_log import log_life

# RestartKillSignal of deploy/gateway.service. gunicorn, Python and terminals use none of the real-time signals. Systems
# without them, such as macOS, have no systemd either.
RESTART_SIGNAL = signal.Signals(getattr(signal, "SIGRTMIN", signal.SIGTERM))
# How long workers serve after the end of their main process or the last sign of a start, in seconds.
SERVES_ON_S = 10.0
# The interval of checks whether a worker that is not a child process has ended.
_LOOK_S = 0.1
# The interval of checks whether a child process has ended, for which a start waits.
_CHILD_LOOK_S = 0.02
# Entries of main processes in the file begin with this. A worker's entry is only its start time, and earlier code
# ignores all other entries.
_MAIN = "main "
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Orphan:
    """The state of a worker without a main process.

    Attributes:
        file: the handover file, whose timestamp a start renews while it goes on; None if the worker drains at once.
        since_s: the time since which it has no main process, on the monotonic clock.
        is_draining: whether it has told itself to drain.
    """

    file: Path | None = None
    since_s: float | None = None
    is_draining = False


class Predecessors:
    """The live workers of earlier main processes.

    Args:
        path: the file in which the earlier process has left them, and in which they are handed on.

    Attributes:
        serving: the ids of those that were not told to drain yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        left = _read_file(path)
        # Killed main processes. They stay in the file, so that their workers can see that they were killed.
        self._killed = {pid: text for pid, text in left.items() if text.startswith(_MAIN)}
        if any(text == _describe_main(pid) or not text.endswith(_read_boot()) for pid, text in self._killed.items()):
            # One of them lives, so the workers are its own; or the host was restarted since, so all are gone.
            self._killed, left = {}, {}
        # The id of a process that has ended may belong to another process by now.
        self._starts = {pid: started for pid, started in left.items() if _read_start(pid) == started}
        self.serving = list(self._starts)
        self._noted: frozenset[int] | None = None

    def tell(self) -> None:
        """Tells them that a start is in progress, so that they serve until it is done."""
        with suppress(OSError):
            os.utime(self._path)

    def tell_until_end(self, child: int) -> int:
        """Waits for a child process of a start, and tells them meanwhile; returns the exit code of the process."""
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            self.tell()
            time.sleep(_CHILD_LOOK_S)
        return os.waitstatus_to_exitcode(ended[1])

    def retire(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tells them to drain, or with SIGQUIT to end at once, and leaves nothing to a next start until `note` does."""
        with suppress(OSError):  # A file that cannot be removed must not prevent a stop.
            self._path.unlink(missing_ok=True)
        self._killed, self._noted = {}, None
        while self.serving:
            pid = self.serving.pop()
            if self._lives(pid):
                with suppress(OSError):  # It has ended this instant.
                    os.kill(pid, number)

    def wait(self, deadline_s: float) -> None:
        """Waits until all have ended, but no longer than until `deadline_s` on the monotonic clock."""
        while time.monotonic() < deadline_s and any(map(self._lives, self._starts)):
            time.sleep(_LOOK_S)

    def _lives(self, pid: int) -> bool:
        """Returns whether a worker still runs; its id may belong to another process by now."""
        return _read_start(pid) == self._starts[pid]

    def hand_on(self, workers: Collection[int]) -> int:
        """Leaves them and the workers of this process to the next main process; returns how many go on serving.

        Raises:
            OSError: the file cannot be written.
        """
        return self._leave(workers, {})

    def note(self, workers: Collection[int]) -> None:
        """Leaves them and this process's workers to a next one in case this one is killed; call it at each change."""
        if self._noted != (now := frozenset(workers)):
            with suppress(OSError):  # If this fails, they drain by themselves.
                self._leave(now, {os.getpid(): _describe_main(os.getpid())})
                self._noted = now

    def forget_own(self) -> None:
        """Removes this process's entries made by `note`, because it passes its workers on in another way."""
        with suppress(OSError):
            if self.serving:
                self._leave((), {})
            else:
                self._path.unlink(missing_ok=True)

    def _leave(self, workers: Collection[int], main: dict[int, str]) -> int:
        left = {pid: self._starts[pid] for pid in self.serving if self._lives(pid)}
        left |= {pid: started for pid in workers if (started := _read_start(pid)) is not None}
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(json.dumps(self._killed | main | left))
        unfinished.replace(self._path)
        return len(left)

    def let_serve_on(self) -> None:
        """Makes workers started by this process from now on continue to serve when it ends."""
        _Orphan.file = self._path


def set_up_handover(server: Any, predecessors: Predecessors, *, may_hand_over: bool) -> None:
    """Makes RESTART_SIGNAL end the main process at once and leave all workers to the next one.

    Args:
        server: gunicorn's arbiter.
        predecessors: workers of earlier main processes. If one restart follows another before the new workers are
            ready, only these serve, so they are handed on too.
        may_hand_over: whether a next main process can exist at the same socket. If not, the signal is like SIGTERM.
    """

    def on_restart() -> None:
        if may_hand_over:
            try:
                count = predecessors.hand_on(list(server.WORKERS))
            except OSError as error:
                reason = f"the next start cannot be told of the workers ({error})."
                log_life("handover_failed", level="error", reason=reason)
            else:
                log_life("workers_handed_over", workers=count)
                if server.pidfile is not None:
                    server.pidfile.unlink()
                sys.exit(0)
        raise StopIteration  # Stops the way gunicorn stops.

    manage_workers = server.manage_workers

    def manage_and_note() -> None:
        manage_workers()
        predecessors.note(server.WORKERS)

    if may_hand_over:
        predecessors.let_serve_on()
        server.manage_workers = manage_and_note
    # gunicorn calls the handler with the signal's name.
    setattr(server, f"handle_{server.SIG_NAMES[RESTART_SIGNAL]}", on_restart)
    signal.signal(RESTART_SIGNAL, server.signal)


def drain_if_orphaned(worker: Any) -> bool:
    """Starts this worker's drain some time after its main process has ended; returns whether it has ended.

    A worker calls it once a second.
    """
    if _Orphan.is_draining or os.getppid() == worker.ppid:
        return _Orphan.is_draining
    now_s = time.monotonic()
    if _Orphan.since_s is None:
        _Orphan.since_s = now_s
        _tell_unless_handed_over(worker.ppid)
    if _Orphan.file is None or (now_s - _Orphan.since_s > SERVES_ON_S and not _is_recent(_Orphan.file)):
        _Orphan.is_draining = True
        worker.gateway_stops[0] = True  # For all workers of this main process: none of them has one any more.
        os.kill(os.getpid(), signal.SIGTERM)
    return True


def _tell_unless_handed_over(main: int) -> None:
    if _Orphan.file is not None and (left := _read_file(_Orphan.file)) and main not in left:
        return
    plan = "drains now" if _Orphan.file is None else f"drains if no start takes over within {SERVES_ON_S:.0f} s"
    log_life("main_process_lost", level="error", reason=f"gunicorn's main process was killed. This worker {plan}.")


def _is_recent(path: Path) -> bool:
    try:
        return 0 <= time.time() - path.stat().st_mtime < SERVES_ON_S
    except OSError:
        return False


def _read_file(path: Path) -> dict[int, str]:
    """Returns worker id → start time, and main process id → `_describe_main`, from the file; {} without a file."""
    try:
        return {int(pid): str(started) for pid, started in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _describe_main(pid: int) -> str:
    """Returns a main process's entry in the file: its start time, and the boot of the host."""
    return f"{_MAIN}{_read_start(pid)} {_read_boot()}"


def _read_boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _read_start(pid: int) -> str | None:
    """Returns the start time of a process, in the kernel's ticks; None if it does not exist."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state == "Z" else fields[18]
