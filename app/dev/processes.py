"""Child processes of a foreground command: none outlives it, and each is asked to stop before it is killed.

A child gets a session of its own, so the terminal's Ctrl-C reaches only the command, which then stops its children in
order. If the command is killed, the kernel signals the children instead (on Linux; elsewhere they continue).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# prctl(2): the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

# How long a child may take after the second Ctrl-C, in seconds: enough to close files, and short enough for a person.
_QUICK_STOP_S = 3.0


class RunError(Exception):
    """The command cannot start or continue, for example because a child ended; the text says why and what to do."""


@dataclass(frozen=True)
class Account:
    """The user and group that a child runs as instead of ours."""

    uid: int
    gid: int


@dataclass
class Child:
    """A running child process.

    Attributes:
        name: its name in messages.
        process: the process itself.
        stop_signal: requests a graceful stop.
        quick_signal: requests a quick stop, for which it has `_QUICK_STOP_S`; None if it has no such signal.
        grace_s: how long a graceful stop may take before the child is killed, in seconds.
        output: the file with its output; None if it writes to the output of this process.
    """

    name: str
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals = signal.SIGTERM
    quick_signal: signal.Signals | None = signal.SIGINT
    grace_s: float = 10.0
    output: Path | None = None

    def raise_if_ended(self) -> None:
        """Raises RunError if the child has ended."""
        if (code := self.process.poll()) is not None:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            where = f"in {self.output}" if self.output else "above"
            raise RunError(f"{self.name} {how}; its output is {where}.")

    def stop(self, is_quick: Callable[[], bool] = lambda: False) -> None:
        """Stops the child and waits for its end.

        Args:
            is_quick: called repeatedly; once it returns true, a graceful stop becomes a quick one.
        """
        deadline_s = time.monotonic() + self.grace_s
        self._signal(self.stop_signal)
        quick = False
        while self.process.poll() is None:
            if self.quick_signal and not quick and is_quick():
                quick, deadline_s = True, min(deadline_s, time.monotonic() + _QUICK_STOP_S)
                self._signal(self.quick_signal)
            if time.monotonic() > deadline_s:
                self._kill_group()
            time.sleep(0.02)
        self._kill_group()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def _kill_group(self) -> None:
        # The child leads a process group, so this also ends a grandchild that it left behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start_child(
    name: str,
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    output: Path | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    quick_signal: signal.Signals | None = signal.SIGINT,
    grace_s: float = 10.0,
) -> Child:
    """Starts `command` in a session of its own and returns it.

    Call it from the main thread: the kernel considers the parent dead when the thread that started the child ends.

    Args:
        name: the child's name in messages.
        environment: all of its environment variables; None for those of this process.
        output: a file for its standard output and error, emptied first; None for those of this process.
        cwd: its working directory; None for that of this process.
        account: the user it runs as; None for that of this process.
        stop_signal, quick_signal, grace_s: see `Child`.
    """
    sink = output.open("wb") if output else None
    with sink or contextlib.nullcontext():
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT if sink else None,
            cwd=cwd,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            # A change of user clears the parent-death signal; Popen changes it before it calls this.
            preexec_fn=_make_death_signal_setter(stop_signal),
        )
    return Child(name, process, stop_signal, quick_signal, grace_s, output)


def die_with_parent(number: signal.Signals = signal.SIGTERM, parent_pid: int | None = None) -> None:
    """Makes the kernel send this process a signal when its parent dies; does nothing on systems other than Linux.

    Args:
        number: the signal.
        parent_pid: the parent's process id; if the parent is another process now, the signal is sent at once.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if parent_pid is not None and os.getppid() != parent_pid:
            os.kill(os.getpid(), number)


def _make_death_signal_setter(number: signal.Signals) -> Callable[[], None]:
    parent_pid = os.getpid()
    return lambda: die_with_parent(number, parent_pid)
