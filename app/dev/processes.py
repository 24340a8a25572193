"""Child processes of a foreground command: started so that none outlives it, stopped with patience and then without.

Children get a session of their own: the terminal's Ctrl-C then reaches the command alone, which stops them in
order. Should the command be killed, the kernel signals them in its place (Linux only; elsewhere they go on).
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


# Who asks a second time wants it gone, not to wait for it.
_HURRY_S = 3.0


class Stopped(Exception):
    """A child ended by itself, or did not come up; the text says which and what to do."""


@dataclass(frozen=True)
class Account:
    """The user and group that a child runs as instead of ours."""

    uid: int
    gid: int


@dataclass
class Child:
    """A running child process.

    Attributes:
        name: what messages call it.
        stop_signal: asks it to end in good order.
        hurry_signal: asks it to end now, and has `_HURRY_S` for it; None for a child that is never hurried.
        grace_s: seconds it has for the former before it is killed.
        output: the file that has what it wrote; None when that went where ours goes.
    """

    name: str
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals = signal.SIGTERM
    hurry_signal: signal.Signals | None = signal.SIGINT
    grace_s: float = 10.0
    output: Path | None = None

    def check(self) -> None:
        """Raises `Stopped` when the child has ended."""
        if (code := self.process.poll()) is not None:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            where = f"in {self.output}" if self.output else "above"
            raise Stopped(f"{self.name} {how}; what it said stands {where}.")

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ends the child and waits for it: asks, asks again once `hurry()` is true, and kills after `grace_s`."""
        deadline = time.monotonic() + self.grace_s
        self._signal(self.stop_signal)
        hurried = False
        while self.process.poll() is None:
            if self.hurry_signal and not hurried and hurry():
                hurried, deadline = True, min(deadline, time.monotonic() + _HURRY_S)
                self._signal(self.hurry_signal)
            if time.monotonic() > deadline:
                self._kill_group()
            time.sleep(0.02)
        self._kill_group()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def _kill_group(self) -> None:
        # The child leads its own group, so this also ends a grandchild that its parent left behind.
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
    hurry_signal: signal.Signals | None = signal.SIGINT,
    grace_s: float = 10.0,
) -> Child:
    """Starts `command` in a session of its own and returns it.

    Call it from the main thread: the kernel takes the death of the starting thread for that of the parent.

    Args:
        environment: the whole environment; ours when None.
        output: a file that gets standard output and error, begun anew; ours when None.
        account: runs it as that user; ours when None.
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
            preexec_fn=_dying_with_parent(stop_signal),
        )
    return Child(name, process, stop_signal, hurry_signal, grace_s, output)


def die_with_parent(number: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """Makes the kernel send this process `number` when its parent dies; does nothing where that is not possible.

    Args:
        parent: the parent's process id; when it is no longer that, the parent is dead already.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), number)


def _dying_with_parent(number: signal.Signals) -> Callable[[], None]:
    parent = os.getpid()
    return lambda: die_with_parent(number, parent)
