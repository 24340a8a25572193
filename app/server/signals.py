"""The signals of gunicorn's main process: none is lost during a reload, and a stop does not wait for a reload."""

from __future__ import annotations

import queue
import signal
from contextlib import suppress
from typing import Any

from app.server.restart import RESTART_SIGNAL

# The signals that end the process. They precede a reload, which would lose them or restart a process that should end.
_ENDS = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, RESTART_SIGNAL}
# Signals that must not be lost while the process has no handlers. The kernel keeps blocked signals even across an exec.
KEPT_SIGNALS = _ENDS | {
    signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH
}  # fmt: skip


def take_ends_first(server: Any) -> None:
    """Makes `server`, gunicorn's arbiter, drop all other signals when one tells it to end, and otherwise reload last.

    gunicorn takes all pending signals at once, and those after a reload would be lost with the process.
    """
    wait_for_signals = server.wait_for_signals

    def wait_in_order(timeout: float = 1.0) -> list[int]:
        signals: list[int] = wait_for_signals(timeout)
        return [number for number in signals if number in _ENDS] or sorted(signals, key=signal.SIGHUP.__eq__)

    server.wait_for_signals = wait_in_order


def is_told_to_end(server: Any) -> bool:
    """Checks the signals that wait for gunicorn's main loop, without removing them."""
    waiting = []
    with suppress(queue.Empty):
        while True:
            waiting.append(server.SIG_QUEUE.get_nowait())
    for number in waiting:
        server.SIG_QUEUE.put_nowait(number)
    return not _ENDS.isdisjoint(waiting)
