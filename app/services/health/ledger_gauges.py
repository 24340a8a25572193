"""The gauges that need the database: whether the ledger is balanced, and how many workers are missing."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from app.config import SettingsError
from app.db import DatabaseError
from app.logs import log_event
from app.metrics import make_gauge
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component
from app.services.journal import Balance, select_balance

# Two statements that read some rows of sums. An imbalance stays until somebody acts, so a minute is soon enough.
INTERVAL_S = 60.0


class _Gauges:
    """The gauges; prometheus_client allows only one instance per process."""

    def __init__(self) -> None:
        self.balanced = make_gauge(
            "gateway_records_balanced", "1 if no record is missing, as the integrity report says.", "livemin"
        )
        self.missing = make_gauge("gateway_missing_workers", "Workers that may hold records.", "livemax")

    def set(self, balance: Balance) -> None:
        self.balanced.set(balance.balanced)
        self.missing.set(balance.missing_workers)


_get_gauges = cache(_Gauges)


class LedgerGauges(Component):
    """Updates them every minute in its own thread, because the other gauges must not wait for the database."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._task = PeriodicTask(
            "ledger-gauges",
            self.update,
            pause_s=lambda: INTERVAL_S,
            on_error=lambda error: log_event("gauge_update_failed", level="error", error=error),
        )

    def start(self) -> None:
        """Starts the updates; later calls do nothing."""
        self._task.start()

    def update(self) -> None:
        """Updates them now. While the database is away they keep their values; other gauges report the outage."""
        with suppress(DatabaseError, SettingsError):
            _get_gauges().set(select_balance())

    def close(self) -> None:
        """Ends the updates."""
        self._task.close()


def start_ledger_gauges() -> None:
    """Starts the updates of this process. Called once per worker, after the fork."""
    get_component(LedgerGauges).start()
