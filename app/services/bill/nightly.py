"""Fetches the bills of the last days every night, and logs days outside the band.

Every worker checks now and then whether a fetch is due; a lock in the database admits one worker of all hosts. No
request waits for it.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, time, timedelta

from app.db import Database, describe_error, get_engine, read_connection, time_limit
from app.db.bills import bill_lock, select_bill_days, select_bill_run, update_run_end, upsert_run_start
from app.db.clock import select_now
from app.errors import GatewayError
from app.logs import log_event
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component, get_settings
from app.services.bill.compared import Compared
from app.services.bill.fetching import fetch_bill, get_billed_providers
from app.services.bill.findings import Band
from app.services.bill.reconciliation import get_state, select_days
from app.services.providers import Provider

# How often a worker checks whether a fetch is due, in seconds. A starting worker waits a while before its first check,
# because many start at once and other work is more urgent then.
INTERVAL_S = 900.0
# The pause after a failure until the provider is asked again.
_PAUSE = timedelta(hours=1)
# The days that are fetched again each night: costs are rated late, and providers correct earlier figures.
DAYS = 7
_RUN_TIME_LIMIT_S = 600.0
_JITTER = 0.2
_MAX_ERROR_CHARACTERS = 300


class NightlyFetch(Component):
    """The background thread of one worker that fetches bills."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._task = PeriodicTask(
            "bill",
            run_if_due,
            pause_s=_choose_pause_s,
            on_error=lambda error: log_event("bill_check_failed", level="warning", reason=describe_error(error)),
            first_pause_s=_choose_pause_s(),
        )

    def start(self) -> None:
        """Starts the thread if the bill of any provider can be read; later calls do nothing."""
        if get_billed_providers(self.settings):
            self._task.start()

    def close(self) -> None:
        """Ends the thread after its current run."""
        self._task.close()


def _choose_pause_s() -> float:
    return INTERVAL_S * random.uniform(1 - _JITTER, 1 + _JITTER)


def start_bills() -> None:
    """Starts the nightly fetch in this process. A worker calls it once, after the fork."""
    get_component(NightlyFetch).start()


def run_if_due(now: datetime | None = None) -> list[str]:
    """Fetches the due bills, unless another worker is doing so; returns the names of the providers asked.

    Args:
        now: the current time, with a timezone; by default PostgreSQL's.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        now = (now or select_now(connection)).astimezone(UTC)
    due = [provider for provider in get_billed_providers(get_settings()) if _is_due(provider, now)]
    if not due:
        return []
    asked = []
    with time_limit(_RUN_TIME_LIMIT_S), bill_lock(get_engine()) as is_taken:
        for provider in due if is_taken else ():
            # Another worker may have fetched it between the check and the lock.
            if _is_due(provider, now):
                asked.append(provider.name)
                _run(provider, now)
    return asked


def _is_due(provider: Provider, now: datetime) -> bool:
    assert provider.bill is not None
    yesterday = now.date() - timedelta(days=1)
    if now < datetime.combine(now.date(), time(), UTC) + provider.bill.tokens_settle_after:
        return False
    with read_connection() as connection:
        run = select_bill_run(connection, provider.name)
        row = select_bill_days(connection, provider.name, yesterday, yesterday).get(yesterday)
    if get_state(provider.bill, yesterday, row) in ("settled", "costs_open"):
        return False
    return run is None or now - run.started_at >= _PAUSE


def _run(provider: Provider, now: datetime) -> None:
    engine = get_component(Database).engine
    upsert_run_start(engine, provider.name)
    last = now.date() - timedelta(days=1)
    first = last - timedelta(days=DAYS - 1)
    reason = None
    try:
        fetch_bill(provider, first, last)
        report_days(provider, select_days(provider, first, last))
    except Exception as error:
        reason = (error.message if isinstance(error, GatewayError) else describe_error(error))[:_MAX_ERROR_CHARACTERS]
        log_event("bill_fetch_failed", level="warning", gateway=provider.name, reason=reason)
    update_run_end(engine, provider.name, reason)


def report_days(provider: Provider, days: list[Compared]) -> None:
    """Logs the comparison of the last days: a warning for each day whose tokens or costs are outside RECONCILE_BAND.

    Only two figures are new each night: the tokens of the last day, and the costs of the day before.
    """
    least, most = get_settings().reconcile_band
    band = Band(float(least), float(most))
    with_tokens = [day for day in days if day.billed_tokens is not None]
    with_costs = [day for day in days if day.cost_difference is not None]
    for day in with_tokens[-1:]:
        _report(provider, day, "tokens", day.token_capture, band, day.recorded_tokens, day.billed_tokens)
    for day in with_costs[-1:]:
        _report(provider, day, "costs", day.cost_capture, band, day.compared_cost, day.billed_cost)


def _report(
    provider: Provider, day: Compared, of: str, capture: float | None, band: Band, recorded: object, billed: object
) -> None:
    # If something was recorded and nothing was billed, there is no share, but a difference.
    differs = not band.holds(capture) or (capture is None and bool(recorded))
    log_event(
        "bill_differed" if differs else "bill_reconciled",
        level="warning" if differs else "info",
        gateway=provider.name,
        day=str(day.day),
        of=of,
        capture=capture,
        recorded=str(recorded),
        billed=str(billed),
    )
