"""The gauges for Prometheus: the present state of this worker, read from each package every few seconds."""

from __future__ import annotations

from prometheus_client import Gauge

from app.services.inference.admission import get_live
from app.services.inference.circuit_breaker import THRESHOLDS, get_open_breakers
from app.services.journal.lifecycle import get_journal_status
from app.services.models import get_catalog_states
from app.services.providers import PROVIDERS

live_requests = Gauge("gateway_live_requests", "Requests being served.", ["stream"], multiprocess_mode="livesum")
breaker_open = Gauge(
    "gateway_breaker_open", "1 while requests fail fast.", ["provider", "kind"], multiprocess_mode="livemax"
)
journal_backlog_rows = Gauge(
    "gateway_journal_backlog_rows", "Records not yet in the database.", multiprocess_mode="livesum"
)
journal_backlog_bytes = Gauge("gateway_journal_backlog_bytes", "Their size.", multiprocess_mode="livesum")
journal_oldest_seconds = Gauge(
    "gateway_journal_oldest_age_seconds", "Age of the oldest of them.", multiprocess_mode="livemax"
)
journal_unrecorded = Gauge(
    "gateway_journal_unrecorded_requests", "Requests served without a record.", multiprocess_mode="livesum"
)
catalog_age_seconds = Gauge(
    "gateway_catalog_age_seconds", "Age of a provider's list.", ["provider"], multiprocess_mode="livemax"
)


def update_gauges() -> None:
    """Writes this worker's present state; called every few seconds, so that a scrape of another worker sees it."""
    journal = get_journal_status()
    journal_backlog_rows.set(journal["backlog_rows"])
    journal_backlog_bytes.set(journal["backlog_bytes"])
    journal_oldest_seconds.set(journal["oldest_age_s"] or 0)
    journal_unrecorded.set(journal["unrecorded"])
    for provider, state in get_catalog_states().items():
        if state.age_s is not None:
            catalog_age_seconds.labels(provider).set(state.age_s)
    for stream, count in get_live().items():
        live_requests.labels("true" if stream else "false").set(count)
    opened = {(breaker["provider"], breaker["kind"]) for breaker in get_open_breakers()}
    for provider in PROVIDERS:
        for kind in THRESHOLDS:
            breaker_open.labels(provider, kind).set((provider, kind) in opened)
