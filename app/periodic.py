"""Work that a thread of its own repeats in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PeriodicTask:
    """Calls a function again and again until it is closed. An exception ends one call, not the task.

    Args:
        name: the name of the thread.
        run: does the work once.
        pause_s: returns the seconds until the next call. It is called after each `run`, so it can depend on the result,
            and can be random, to spread the queries of workers that started together.
        on_error: logs an exception that `run` raised.
        first_pause_s: the seconds before the first call.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], object],
        *,
        pause_s: Callable[[], float],
        on_error: Callable[[Exception], None],
        first_pause_s: float = 0.0,
    ) -> None:
        self._name = name
        self._run = run
        self._pause_s = pause_s
        self._on_error = on_error
        self._first_pause_s = first_pause_s
        self._thread: threading.Thread | None = None
        self._has_run = threading.Event()
        self._closed = threading.Event()

    def start(self, wait_s: float = 0.0) -> None:
        """Starts the thread, and waits up to `wait_s` seconds for the end of the first call; later calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_until_closed, name=self._name, daemon=True)
            self._thread.start()
            if wait_s:
                self._has_run.wait(wait_s)

    def _run_until_closed(self) -> None:
        pause_s = self._first_pause_s
        while not self._closed.wait(pause_s):
            try:
                self._run()
            except Exception as error:
                self._on_error(error)
            self._has_run.set()
            pause_s = self._pause_s()

    def close(self) -> None:
        """Ends the thread after its current call."""
        self._closed.set()
