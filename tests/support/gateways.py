"""Starts gateways for fixtures, and stops them concurrently, because each stop mostly waits for a second."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from tests.support.gateway import Gateway, base_settings, start_gateway
from tests.support.host_network import NetworkHost


class Gateways:
    """The gateways of a test process that run on its shared database server.

    Args:
        root: the copy of the project that they run from.
        make_place: makes a directory for the log and the journal of a gateway.
    """

    def __init__(self, root: Path, make_place: Callable[[str], Path]) -> None:
        self._root = root
        self._make_place = make_place
        self._pool = ThreadPoolExecutor(8, "stop")
        self._pending: list[Future[None]] = []

    @contextmanager
    def running(
        self,
        database_url: str,
        settings: Mapping[str, str],
        *,
        workers: int = 1,
        place: Path | None = None,
        on: NetworkHost | None = None,
    ) -> Iterator[Gateway]:
        """A gateway for the length of a `with` block; after the block it stops in the background.

        Args:
            database_url: its database.
            settings: further environment variables.
            place: its directory, by default a new one; its log is `place / "log"`.
            on: the host that it runs on, if that is not this machine.
        """
        place = place or self._make_place("gateway")
        chosen = base_settings(place, database_url) | dict(settings)
        where = {"prefix": on.command, "host": on.address} if on else {}
        gateway = start_gateway(chosen, root=self._root, log=place / "log", workers=workers, **where)
        try:
            yield gateway
        finally:
            self._submit(gateway.stop)

    def after_stops(self, action: Callable[[], object]) -> None:
        """Calls `action` once all gateways that are stopping now have stopped."""
        stops = list(self._pending)

        def act() -> None:
            wait(stops)
            action()

        self._submit(act)

    def close(self) -> None:
        """Waits for all stops.

        Raises:
            AssertionError: a gateway did not stop in time; the message names the test that it ran for.
        """
        self._pool.shutdown()
        for pending in self._pending:
            pending.result()

    def _submit(self, action: Callable[[], object]) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "")

        def act() -> None:
            try:
                action()
            except Exception as error:
                raise AssertionError(f"after {test}: {error}") from error

        self._pending = [one for one in self._pending if not one.done() or one.exception()]
        self._pending.append(self._pool.submit(act))
