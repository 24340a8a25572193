"""SIGHUP: the main process checks the current code and settings, and replaces itself with them.

gunicorn's own reload reads the settings again in the old process, and starts workers from it. A mistake in the settings
would end the gateway, and after an update of the code the workers would mix old modules with new ones. Here another
process performs a complete start except for listening. If it finds a problem, the old workers stay and the log gives
the reason. If not, the main process executes gunicorn anew. It keeps its id, its sockets and its workers; so no
connection is refused, and the old workers serve until the new ones are ready (`worker_starts.py`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from app.config import Settings
from app.server.life_log import log_life
from app.server.signals import KEPT_SIGNALS, is_told_to_end, take_ends_first

# The time limit of the check, in seconds. It waits for the database and for a port that is about to be closed.
CHECK_TIMEOUT_S = 60.0
# The interval of checks whether the gateway was told to stop meanwhile.
_LOOK_S = 0.1
# The exit code of a check without problems if the settings name another address, which needs a new socket.
OTHER_ADDRESS = 10

# Tells a process what it takes over, or that it is a check.
_VARIABLE = "GATEWAY_HANDOVER"
# Tells a check the settings of the serving gateway: name → digest. It is a separate variable, because earlier code also
# reads the other one and accepts no unknown parts in it.
_SETTINGS_VARIABLE = "GATEWAY_RUNNING_SETTINGS"
# Variables by which systemd passes sockets on, and gunicorn after USR2. GUNICORN_FD also marks the process as a daemon.
_SOCKET_VARIABLES = ("GUNICORN_FD", "GUNICORN_PID", "LISTEN_FDS", "LISTEN_PID")
_FIRST_SOCKET = 3
# The length of a setting's digest.
_DIGITS = 16


@dataclass(frozen=True)
class Handover:
    """The sockets, workers and metrics that a process takes over from the one before it.

    Attributes:
        check: whether this process is only a check whether it could take over.
        addresses: the addresses of the one before in gunicorn's form: [host, port], a path or a descriptor.
        workers: the ids of its workers.
        from_systemd: whether its sockets are systemd's.
        metrics: the metrics directory that it had claimed.
        metrics_lock: the descriptor of that directory's lock.
    """

    check: bool
    addresses: list[Any]
    workers: list[int]
    from_systemd: bool
    metrics: str
    metrics_lock: int | None


class _Checked(NamedTuple):
    """The result of a check: its exit code and its output."""

    code: int
    output: str


def read_handover() -> Handover | None:
    """Returns the handover to this process, or None for a normal start. Call it once: it removes the variable.

    A check changes nothing that the process before it uses.
    """
    text = os.environ.pop(_VARIABLE, None)
    return None if text is None else Handover(**json.loads(text))


def read_changed_settings(settings: Settings) -> list[str]:
    """Returns the names of the settings that differ from those of the serving gateway; [] if unknown."""
    now, before = _digest(settings), json.loads(os.environ.pop(_SETTINGS_VARIABLE, "{}"))
    return [name for name, digest in now.items() if before.get(name, digest) != digest]


def _digest(settings: Settings) -> dict[str, str]:
    """Returns name → digest. Digests are enough for a comparison and reveal no passwords among the settings."""
    values = {row.metadata["name"]: repr(getattr(settings, row.name)) for row in fields(settings)}
    return {name: hashlib.sha256(value.encode()).hexdigest()[:_DIGITS] for name, value in values.items()}


def set_up_reload(
    server: Any, settings: Settings, *, from_systemd: bool, metrics: Path, metrics_lock: int | None
) -> None:
    """Makes SIGHUP check first, and then replace this process.

    Args:
        server: gunicorn's arbiter.
        settings: those of this process.
        from_systemd: whether its sockets are systemd's.
        metrics: the directory of the metrics.
        metrics_lock: the descriptor of its lock; None if it is shared with other gateways.
    """
    base = Handover(
        check=True,
        addresses=[list(address) if isinstance(address, tuple) else address for address in server.cfg.address],
        workers=[],
        from_systemd=from_systemd,
        metrics=str(metrics),
        metrics_lock=metrics_lock,
    )

    def reload() -> None:
        try:
            checked = _check(server, base, settings)
            if is_told_to_end(server):
                log_life("reload_refused", reason="the gateway was told to stop.")
                return
            reason = _read_problem(checked)
        except OSError as error:
            reason = f"the check of the new settings and code could not run ({error}). Correct this, and try again."
        if reason is None:
            log_life("reload_started")
            _replace_process(server, base, keeps_sockets=from_systemd or checked.code != OTHER_ADDRESS)
        log_life("reload_refused", level="error", reason=reason)

    take_ends_first(server)
    server.reload = reload


def adopt_workers(server: Any, handover: Handover) -> None:
    """Makes the workers of the process before this one workers of `server`, and unblocks signals."""
    server.systemd = handover.from_systemd
    for number, pid in enumerate(handover.workers):
        worker = _OldWorker(pid, number - len(handover.workers))
        try:
            has_ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            continue
        if has_ended:
            server.cfg.child_exit(server, worker)
        else:
            server.WORKERS[pid] = worker
    signal.pthread_sigmask(signal.SIG_UNBLOCK, KEPT_SIGNALS)


class _OldWorker:
    """Represents a worker of the process before this one, where gunicorn expects one of its own.

    Attributes:
        pid: its id.
        age: its rank in the order of starts; lower than those of this process.
        aborted: whether gunicorn has aborted it, because it did not end in time.
        tmp: itself, in place of the file with which a worker shows that it lives.
    """

    def __init__(self, pid: int, age: int) -> None:
        self.pid = pid
        self.age = age
        self.aborted = False
        self.tmp = self
        self._retired_s: float | None = None

    def retire(self) -> None:
        """Notes that it was told to end. If it still lives after gunicorn's timeout, gunicorn aborts it."""
        self._retired_s = time.monotonic()

    def last_update(self) -> float:
        """Returns the time of its last report, on the monotonic clock: now, until it is told to end."""
        return time.monotonic() if self._retired_s is None else self._retired_s

    def close(self) -> None:
        """Does nothing: the file is not open in this process."""


def retire_old_workers(server: Any) -> None:
    """Notes that all adopted workers are being told to end."""
    for worker in server.WORKERS.values():
        if isinstance(worker, _OldWorker):
            worker.retire()


def _make_command(server: Any, *more: str) -> tuple[str, list[str], dict[str, str]]:
    """Returns the program, the arguments and the environment with which this gateway was started, by any means."""
    environment = {name: value for name, value in server.cfg.env_orig.items() if name not in _SOCKET_VARIABLES}
    return sys.executable, [sys.executable, *sys.orig_argv[1:], *more], environment | {"GUNICORN_FD": ""}


def _check(server: Any, handover: Handover, settings: Settings) -> _Checked:
    """Lets another process check whether it could take over."""
    pid_file = f"{server.cfg.pidfile}.check" if server.cfg.pidfile else None
    program, arguments, environment = _make_command(server, *([] if pid_file is None else [f"--pid={pid_file}"]))
    environment[_VARIABLE] = json.dumps(asdict(handover))
    environment[_SETTINGS_VARIABLE] = json.dumps(_digest(settings))
    read, write = os.pipe()
    outputs = [(os.POSIX_SPAWN_DUP2, write, number) for number in (1, 2)]
    os.chdir(server.START_CTX["cwd"])  # By its name, which may have become the name of another directory.
    try:
        child = os.posix_spawn(program, arguments, environment, file_actions=outputs)
    finally:
        os.chdir(server.cfg.chdir)
        os.close(write)
    output = _read_to_end(server, read, child)
    os.close(read)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if pid_file is not None:
        with suppress(OSError):
            os.unlink(pid_file)
    return _Checked(code, output)


def _read_to_end(server: Any, descriptor: int, child: int) -> str:
    """Returns the output of `child` from a pipe; ends it after CHECK_TIMEOUT_S, or when the gateway is told to stop."""
    deadline_s = time.monotonic() + CHECK_TIMEOUT_S
    output = b""
    while True:
        if not select.select([descriptor], [], [], _LOOK_S)[0]:
            if time.monotonic() < deadline_s and not is_told_to_end(server):
                continue
            os.kill(child, signal.SIGKILL)
            return ""
        piece = os.read(descriptor, 65_536)
        if not piece:
            return output.decode(errors="replace")
        output += piece


def _read_problem(checked: _Checked) -> str | None:
    """Returns the reason against the reload, or None after passing on the check's log lines."""
    lines = checked.output.strip().splitlines()
    logged = [line for line in lines if line.startswith("{")]
    if checked.code in {0, OTHER_ADDRESS}:
        for line in logged:
            os.write(2, f"{line}\n".encode())
        return None
    said = [line.strip() for line in lines if line.strip() and line not in logged]
    if not said:
        end = f"ended with code {checked.code}" if checked.code >= 0 else f"was ended by {_name_signal(-checked.code)}"
        return f"the check of the new settings and code {end} and said nothing. Try again."
    reason = said[-1].removeprefix("The gateway cannot start: ")
    # The last line of a traceback does not name the place.
    places = [line for line in said if line.startswith('File "')]
    return f"{reason} ({places[-1]})" if places else reason


def _name_signal(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name} (a file system in memory is full, such as that of the metrics)" if name == "SIGBUS" else name


def _replace_process(server: Any, handover: Handover, *, keeps_sockets: bool) -> None:
    """Executes gunicorn anew in this process; does not return."""
    server.predecessors.forget_own()
    signal.pthread_sigmask(signal.SIG_BLOCK, KEPT_SIGNALS)
    with suppress(queue.Empty):
        while True:  # Signals that have arrived but are not handled yet.
            number = server.SIG_QUEUE.get_nowait()
            if number in KEPT_SIGNALS - {signal.SIGHUP}:
                os.kill(os.getpid(), number)
    if server.pidfile is not None:
        server.pidfile.unlink()
    program, arguments, environment = _make_command(server)
    sockets = [listener.fileno() for listener in server.LISTENERS]
    lock = handover.metrics_lock
    if lock is not None:
        lock = fcntl.fcntl(lock, fcntl.F_DUPFD, _FIRST_SOCKET + len(sockets))
    for number in sockets:
        os.set_inheritable(number, False)
    if keeps_sockets:
        _place(sockets)
        environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}
    os.chdir(server.START_CTX["cwd"])
    taken = asdict(handover) | {"check": False, "workers": list(server.WORKERS), "metrics_lock": lock}
    os.execve(program, arguments, environment | {_VARIABLE: json.dumps(taken)})


def _place(sockets: Sequence[int]) -> None:
    """Copies sockets to the descriptors at which programs expect systemd's sockets, and makes these inheritable."""
    copies = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_SOCKET + len(sockets)) for number in sockets]
    for place, number in enumerate(copies, _FIRST_SOCKET):
        os.dup2(number, place, inheritable=True)
