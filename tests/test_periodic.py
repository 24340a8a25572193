"""Background tasks: repeated, after errors too, in one thread, until they are closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.periodic import PeriodicTask
from tests.support.waiting import wait_until


class Work:
    """Counts its calls, the first of which fails, and remembers their threads."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[Exception] = []

    def run(self) -> None:
        self.threads.append(threading.current_thread())
        if len(self.threads) == 1:
            raise ValueError("the first call fails")


@pytest.fixture
def work() -> Iterator[Work]:
    yield Work()


def test_it_repeats_in_one_thread_after_an_error_too_until_it_is_closed(work: Work) -> None:
    pauses: list[int] = []

    def choose_pause_s() -> float:
        pauses.append(len(work.threads))
        return 0.001

    task = PeriodicTask("some-work", work.run, pause_s=choose_pause_s, on_error=work.errors.append)
    task.start(30.0)
    assert work.threads and [str(error) for error in work.errors] == ["the first call fails"]
    task.start()
    wait_until(lambda: len(work.threads) > 3, what="further calls")
    task.close()
    (thread,) = set(work.threads)
    assert thread.name == "some-work" and thread.daemon
    wait_until(lambda: not thread.is_alive(), what="the end of the thread")
    assert pauses == list(range(1, len(work.threads) + 1)), "a pause is chosen after each call"
    assert len(work.errors) == 1


def test_the_first_call_may_wait_and_a_pause_ends_with_the_task(work: Work) -> None:
    task = PeriodicTask("w", work.run, pause_s=lambda: 3600.0, on_error=work.errors.append, first_pause_s=3600.0)
    task.start()
    task.close()
    wait_until(lambda: not any(each.name == "w" for each in threading.enumerate()), what="the end of the thread")
    assert work.threads == []
