"""The gauges for Prometheus: the state of this worker, written every few seconds.

They pull from other packages, so they are here and not in `app/metrics.py`, which other packages push to.
"""

from __future__ import annotations

from functools import cache

from app.logs import log_event
from app.metrics import make_gauge
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component
from app.services.health.ledger_gauges import start_ledger_gauges
from app.services.inference import THRESHOLDS, count_refused_models, get_live_requests, get_open_breakers
from app.services.journal import get_journal_status
from app.services.keys import get_keys_state
from app.services.limits import get_outstanding
from app.services.models import get_catalog_states
from app.services.providers import PROVIDERS

# Prometheus scrapes every 15 s or more; a gauge is older than the scrape by at most this.
UPDATE_INTERVAL_S = 5.0


class _Gauges:
    """The gauges; prometheus_client allows only one instance per process."""

    def __init__(self) -> None:
        self.live_requests = make_gauge("gateway_live_requests", "Requests being served.", "livesum", ["stream"])
        self.breaker_open = make_gauge(
            "gateway_breaker_open", "1 while the circuit breaker is open.", "livemax", ["provider", "kind"]
        )
        self.refused_models = make_gauge(
            "gateway_refused_models", "Models whose own circuit breaker is open.", "livemax", ["provider"]
        )
        self.journal_backlog_rows = make_gauge(
            "gateway_journal_backlog_rows", "Records not yet in the database.", "livesum"
        )
        self.journal_backlog_bytes = make_gauge("gateway_journal_backlog_bytes", "Size of these records.", "livesum")
        self.journal_oldest_age = make_gauge(
            "gateway_journal_oldest_age_seconds", "Age of the oldest record not yet in the database.", "livemax"
        )
        self.journal_unrecorded = make_gauge(
            "gateway_journal_unrecorded_requests", "Requests served without a record.", "livesum"
        )
        self.budget_outstanding = make_gauge(
            "gateway_budget_outstanding", "Drawn from budgets and not spent.", "livesum", ["unit"]
        )
        self.catalog_age = make_gauge(
            "gateway_catalog_age_seconds", "Age of a provider's model list.", "livemax", ["provider"]
        )
        self.database_up = make_gauge("gateway_database_up", "1 if the database answers every worker.", "livemin")
        self.key_snapshot_age = make_gauge(
            "gateway_key_snapshot_age_seconds", "Time since the database confirmed the keys.", "livemax"
        )


# Created at the first use and not at import: a gauge is a file of its process, and the process that runs the checks
# before the start must not create one.
_get_gauges = cache(_Gauges)


class GaugeUpdater(Component):
    """Writes the state of this worker every few seconds, so that a scrape served by another worker includes it."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._task = PeriodicTask(
            "gauges",
            update_gauges,
            pause_s=lambda: UPDATE_INTERVAL_S,
            on_error=lambda error: log_event("gauge_update_failed", level="error", error=error),
        )

    def start(self) -> None:
        """Starts the updates; later calls do nothing."""
        self._task.start()

    def close(self) -> None:
        """Ends the updates."""
        self._task.close()


def start_gauges() -> None:
    """Starts the updates of this process's gauges. Called once per worker, after the fork."""
    get_component(GaugeUpdater).start()
    start_ledger_gauges()


def update_gauges() -> None:
    """Writes the state of this worker now."""
    gauges = _get_gauges()
    _update_journal(gauges)
    _update_keys(gauges)
    for unit, amount in get_outstanding().items():
        gauges.budget_outstanding.labels(unit).set(amount)
    for name, catalog in get_catalog_states().items():
        if catalog.age_s is not None:
            gauges.catalog_age.labels(name).set(catalog.age_s)
    for stream, count in get_live_requests().items():
        gauges.live_requests.labels("true" if stream else "false").set(count)
    open_breakers = {(breaker.provider, breaker.kind) for breaker in get_open_breakers()}
    refused_models = count_refused_models()
    for provider in PROVIDERS:
        gauges.refused_models.labels(provider).set(refused_models.get(provider, 0))
        for kind in THRESHOLDS:
            gauges.breaker_open.labels(provider, kind).set((provider, kind) in open_breakers)


def _update_journal(gauges: _Gauges) -> None:
    status = get_journal_status()
    rows, size, age_s = status.backlog_rows, status.backlog_bytes, status.oldest_age_s or 0
    if status.counts_orphaned:
        orphaned = status.orphaned
        rows, size, age_s = rows + orphaned.rows, size + orphaned.bytes, max(age_s, orphaned.oldest_age_s or 0)
    gauges.journal_backlog_rows.set(rows)
    gauges.journal_backlog_bytes.set(size)
    gauges.journal_oldest_age.set(age_s)
    gauges.journal_unrecorded.set(status.unrecorded)


def _update_keys(gauges: _Gauges) -> None:
    state = get_keys_state()
    if state.database_up is not None:
        gauges.database_up.set(state.database_up)
    gauges.key_snapshot_age.set(float("inf") if state.age_s is None else state.age_s)
