"""Each worker's report of its state, and the report on all workers.

A worker writes its state into its row of the registry with every report (`services/journal/registration.py`),
because a request reaches only one worker, and each worker has its own circuit breakers, lists of models and keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from app.db import read_connection
from app.db.clock import select_now
from app.db.workers import WorkerRow, select_workers
from app.logs import redact
from app.services.health.checks import CHECKS
from app.services.inference import OpenBreaker, get_live_requests, get_open_breakers, get_open_model_breakers
from app.services.journal import JournalStatus, get_journal_status
from app.services.keys import KeysState, get_keys_state
from app.services.models import CatalogState, get_catalog_states
from app.shutdown import is_draining

# The most workers in the report, and the most models that a worker names.
MAX_LISTED = 200
MAX_MODELS = 20

# A worker that missed two reports may be gone, so its breakers no longer count.
_CURRENT_FOR = timedelta(seconds=30)

# The checks that only read memory. The check of the database would query it.
_OWN_CHECKS = ("keys", "journal")


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one worker.

    Attributes:
        draining: whether it is stopping.
        live_requests, live_streams: requests being served, and those of them that stream.
        problems: what is wrong with it, check → one sentence.
        keys: the live keys that it has in memory.
        journal: the state of its journal.
        catalogs: the model list of each configured provider.
        breakers: its open circuit breakers: those of whole providers, and at most MAX_MODELS of single models.
    """

    draining: bool
    live_requests: int
    live_streams: int
    problems: dict[str, str]
    keys: KeysState
    journal: JournalStatus
    catalogs: dict[str, CatalogState]
    breakers: list[OpenBreaker]


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that lives, as the registry knows it; times are by PostgreSQL's clock.

    Attributes:
        last_seen_at: when `state` was true. A worker that was killed is listed for three minutes.
        in_flight, unshipped: requests without a record, when it last delivered.
        state: None for a worker of another version whose state cannot be read.
    """

    worker_id: str
    host: str | None
    pid: int | None
    version: str | None
    started_at: datetime | None
    last_seen_at: datetime | None
    in_flight: int
    unshipped: int
    state: WorkerState | None


class BreakerReport(msgspec.Struct, frozen=True, kw_only=True):
    """A circuit breaker that is open in at least one worker.

    Attributes:
        model: the model that the provider refuses; None if it is the provider's breaker.
        workers: in how many workers it is open.
        next_probe_at: when the first of them will try again.
        reason: the last error, without secrets.
    """

    provider: str
    kind: str
    model: str | None
    workers: int
    next_probe_at: datetime
    reason: str | None


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """All workers that live, of all hosts that share the database.

    Attributes:
        as_of: the time, by PostgreSQL's clock.
        breakers: those that are open anywhere, in most workers first.
        data: the workers, the oldest first, at most MAX_LISTED.
    """

    object: Literal["list"] = "list"
    as_of: datetime
    breakers: list[BreakerReport]
    data: list[WorkerReport]


def get_worker_state() -> WorkerState:
    """Returns the state of this process, from its memory alone."""
    live = get_live_requests()
    findings = {check.name: check.run() for check in CHECKS if check.name in _OWN_CHECKS}
    return WorkerState(
        draining=is_draining(),
        live_requests=sum(live.values()),
        live_streams=live[True],
        problems={name: redact(found.problem) for name, found in findings.items() if found.problem is not None},
        keys=get_keys_state(),
        journal=get_journal_status(),
        catalogs=get_catalog_states(),
        breakers=[*get_open_breakers(), *get_open_model_breakers(MAX_MODELS)],
    )


def encode_worker_state() -> bytes:
    """Returns the state of this process as JSON that PostgreSQL accepts."""
    # PostgreSQL's text cannot store NUL, and an error message may quote one.
    return msgspec.json.encode(get_worker_state()).replace(b"\\u0000", b"\\ufffd")


def select_workers_report() -> Workers:
    """Returns the live workers, with the state of each, in two statements.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        now, rows = select_now(connection), select_workers(connection, "live", MAX_LISTED)
    workers = [_make_report(row) for row in rows]
    return Workers(as_of=now, breakers=_merge_breakers(workers, now), data=workers)


def _make_report(row: WorkerRow) -> WorkerReport:
    shared = {name: getattr(row, name) for name in WorkerReport.__struct_fields__ if name != "state"}
    return WorkerReport(**shared, state=_read_state(row))


def _read_state(row: WorkerRow) -> WorkerState | None:
    try:
        return msgspec.convert(row.state, WorkerState)
    except msgspec.ValidationError:
        return None


def _merge_breakers(workers: Iterable[WorkerReport], now: datetime) -> list[BreakerReport]:
    found: dict[tuple[str, str, str | None], list[tuple[datetime, str | None]]] = {}
    for worker in workers:
        if worker.state is None or worker.last_seen_at is None or worker.last_seen_at < now - _CURRENT_FOR:
            continue
        for breaker in worker.state.breakers:
            probe_at = worker.last_seen_at + timedelta(seconds=breaker.retry_in_s)
            found.setdefault((breaker.provider, breaker.kind, breaker.model), []).append((probe_at, breaker.reason))
    merged = [
        BreakerReport(
            provider=provider,
            kind=kind,
            model=model,
            workers=len(open_ones),
            next_probe_at=min(open_ones)[0],
            reason=next((reason for _, reason in reversed(open_ones) if reason), None),
        )
        for (provider, kind, model), open_ones in found.items()
    ]
    return sorted(merged, key=lambda one: (-one.workers, one.provider, one.kind, one.model or ""))
