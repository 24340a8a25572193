"""A stop before gunicorn has its own handlers of signals."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from app.server.stop import stop_while_checking


class Halted(Exception):
    """In place of the end of gunicorn's main process."""


class Server:
    """The part of gunicorn's arbiter that a stop during the check uses."""

    def halt(self) -> None:
        raise Halted


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Puts the handlers of this process back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_check_ends_the_check(number: signal.Signals) -> None:
    with subprocess.Popen(["sleep", "60"]) as check:
        stop_while_checking(Server(), check.pid)
        with pytest.raises(Halted):
            signal.raise_signal(number)
        assert check.wait(30) == -signal.SIGKILL


def test_a_stop_after_the_check_does_not_end_a_process_that_has_its_id_by_now() -> None:
    # Only a process that was waited for is no child any more. The shell reports which signal ended its own child.
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait $!"], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        stranger = int(shell.stdout.readline())
        stop_while_checking(Server(), stranger)
        with pytest.raises(Halted):
            signal.raise_signal(signal.SIGTERM)
        os.kill(stranger, signal.SIGVTALRM)
        assert shell.wait(30) == 128 + signal.SIGVTALRM
