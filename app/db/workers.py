"""The table worker: the host of each worker, the worker's last report, and how it ended.

`closed_how` is one of:

    drained       it stopped, and all of its rows are in the database
    left_rows     it stopped and left rows in its journal, which another worker adopts
    adopted       another worker has delivered its journal
    written_off   the operator said that its journal is gone
    reconciled    the database was restored from before its end; its journal had been delivered to the lost state

A worker that is killed closes nothing. Its row stays open until another worker of its host has adopted its journal. If
none does, because the host is gone, the row is `missing`.

Workers of earlier versions have no row here, only a line in worker_ledger. Whether they live is unknown: a line is as
old as a worker's last request. All times are by PostgreSQL's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import Connection, Engine, text

from app.db.ledger import LOST_IN_RESTORES

# 18 times the 10 s between two reports, so that a shorter network outage makes no worker count as missing.
MISSING_AFTER_S = 180
# After three missing reports, something is wrong with the worker or its host.
SILENT_AFTER_S = 30
# An operator may check after a weekend what happened to a worker. And statements that a worker sent before it ended
# must not still be in progress: executed after the deletion, they would count the worker's requests twice.
KEPT = timedelta(days=7)

# The worker_ledger line with the sums of the workers whose rows were deleted.
EARLIER_WORKERS = "earlier workers"

# SQL conditions on a row of worker: whether it is missing, and its state.
IS_MISSING = f"""(coalesce(closed_at, last_seen_at) < now() - interval '{MISSING_AFTER_S} s'
    AND (closed_how IS NULL OR closed_how = 'left_rows'))"""
WORKER_STATE = f"""CASE WHEN {IS_MISSING} THEN 'missing' WHEN closed_how IS NULL THEN 'live'
    WHEN closed_how = 'written_off' THEN 'written_off' ELSE 'closed' END"""

_UPSERT_SEEN = text("""
    INSERT INTO worker (worker_id, host, boot_id, pid, version, journal_dir, started_at, last_seen_at, state)
    VALUES (:worker_id, :host, :boot_id, :pid, :version, :journal_dir, now() - make_interval(secs => :age_s), now(),
        CAST(:state AS jsonb))
    ON CONFLICT (worker_id) DO UPDATE
    SET last_seen_at = now(), state = excluded.state, closed_at = NULL, closed_how = NULL
    WHERE worker.closed_how IS NULL OR worker.closed_how IN ('written_off', 'reconciled')""")

# A statement that a worker stopped waiting for may be executed after its journal was adopted.
_UPSERT_CLOSED = text("""
    INSERT INTO worker (worker_id, closed_at, closed_how) VALUES (:worker_id, now(), :how)
    ON CONFLICT (worker_id) DO UPDATE SET closed_at = now(), closed_how = excluded.closed_how
    WHERE worker.closed_how IS DISTINCT FROM 'adopted'""")

_SELECT_BOOT_ID = text("SELECT boot_id FROM worker WHERE worker_id = :worker_id")

_SELECT_WORKERS = text(f"""
    SELECT worker_id, host, boot_id, pid, worker.version, journal_dir, started_at, last_seen_at, closed_at, state,
        coalesce(in_flight, 0) AS in_flight, coalesce(unshipped, 0) AS unshipped,
        EXISTS (SELECT FROM worker AS other
            WHERE other.host = worker.host AND other.journal_dir = worker.journal_dir AND other.closed_how IS NULL
            AND other.last_seen_at >= now() - interval '{MISSING_AFTER_S} s') AS has_neighbour
    FROM worker LEFT JOIN worker_ledger USING (worker_id)
    WHERE {WORKER_STATE} = :state
    ORDER BY started_at, worker_id LIMIT :limit""")

_SELECT_COUNTS = text(f"""
    SELECT {WORKER_STATE} AS state, CASE WHEN {WORKER_STATE} IN ('live', 'missing') THEN host END AS host,
        count(*) AS workers
    FROM worker GROUP BY 1, 2 ORDER BY 2""")

_SELECT_SILENT = text(f"""
    SELECT count(*) AS workers, coalesce(max(extract(epoch FROM now() - last_seen_at)), 0)::int AS longest_s
    FROM worker WHERE {WORKER_STATE} = 'live' AND last_seen_at < now() - interval '{SILENT_AFTER_S} s'""")

_SELECT_UNREGISTERED = text(f"""
    SELECT count(*) AS workers, CAST(coalesce(sum(in_flight), 0) AS bigint) AS in_flight,
        CAST(coalesce(sum(unshipped), 0) AS bigint) AS unshipped
    FROM worker_ledger LEFT JOIN worker USING (worker_id)
    WHERE worker.worker_id IS NULL AND worker_ledger.worker_id NOT IN ('{EARLIER_WORKERS}', '{LOST_IN_RESTORES}')""")

_COUNTS = ("started", "in_flight", "unshipped", "unrecorded", "rejected", "unsent", "direct")

# A single statement, so that every other one sees either the lines or their sum. It takes only workers whose journal is
# delivered and removed, and only lines that say so.
_DELETE_CLOSED = text(f"""
    WITH old AS MATERIALIZED (
        SELECT worker_id FROM worker
        WHERE closed_how IN ('drained', 'adopted') AND closed_at < :before AND NOT EXISTS (
            SELECT FROM worker_ledger AS line
            WHERE line.worker_id = worker.worker_id AND (line.in_flight <> 0 OR line.unshipped <> 0))
        FOR UPDATE SKIP LOCKED),
    workers AS (DELETE FROM worker USING old WHERE worker.worker_id = old.worker_id),
    lines AS (
        DELETE FROM worker_ledger USING old
        WHERE worker_ledger.worker_id = old.worker_id AND in_flight = 0 AND unshipped = 0
        RETURNING worker_ledger.*),
    sums AS (
        INSERT INTO worker_ledger (worker_id, version, segment, byte_offset, {", ".join(_COUNTS)})
        SELECT '{EARLIER_WORKERS}', 1, 0, 0, {", ".join(f"sum({name})" for name in _COUNTS)} FROM lines
        HAVING count(*) > 0
        ON CONFLICT (worker_id) DO UPDATE SET version = worker_ledger.version + 1, updated_at = now(),
            {", ".join(f"{name} = worker_ledger.{name} + excluded.{name}" for name in _COUNTS)})
    SELECT count(*) FROM old""")


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """The entry of a worker in the registry; the comments of `worker` in app/db/tables.py explain the columns."""

    worker_id: str
    host: str
    boot_id: str
    pid: int
    version: str
    journal_dir: str


class WorkerRow(NamedTuple):
    """A registered worker with the counts of its ledger line.

    Attributes:
        state: the worker's last report about itself, as JSON; None if there was none.
        in_flight, unshipped: requests without a row, when it last wrote to the database.
        has_neighbour: whether a live worker would adopt its journal: one on the same host with the same directory.
    """

    worker_id: str
    host: str | None
    boot_id: str | None
    pid: int | None
    version: str | None
    journal_dir: str | None
    started_at: datetime | None
    last_seen_at: datetime | None
    closed_at: datetime | None
    state: dict[str, Any] | None
    in_flight: int
    unshipped: int
    has_neighbour: bool


class SilentWorkers(NamedTuple):
    """The number of workers silent for longer than SILENT_AFTER_S and not yet missing; the longest silence."""

    workers: int
    longest_s: int


class UnregisteredLines(NamedTuple):
    """The number of workers with a ledger line but no row, and the sums of these lines."""

    workers: int
    in_flight: int
    unshipped: int


def upsert_seen(engine: Engine, registration: Registration, age_s: float, state: bytes | None = None) -> None:
    """Registers a living worker, or records that it lives.

    Args:
        engine: the database.
        registration: the worker; for one that is registered already, only the time and the state change.
        age_s: how long ago it started, in seconds.
        state: its report about itself, as JSON without NUL characters; None for none.
    """
    values = {
        **msgspec.structs.asdict(registration),
        "age_s": age_s,
        "state": None if state is None else state.decode(),
    }
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_UPSERT_SEEN, values)


def upsert_closed(engine: Engine, worker_id: str, how: Literal["drained", "left_rows", "adopted"]) -> None:
    """Records how a worker ended; one that was never registered gets a row without a host."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_UPSERT_CLOSED, {"worker_id": worker_id, "how": how})


def select_boot_id(engine: Engine, worker_id: str) -> str | None:
    """Returns the boot of its host in which a worker ran; None if it is not registered or did not know."""
    with engine.connect() as connection:
        boot_id = connection.execute(_SELECT_BOOT_ID, {"worker_id": worker_id}).scalar()
    return str(boot_id) if boot_id else None


def select_closings(engine: Engine, worker_ids: Sequence[str]) -> dict[str, str | None]:
    """Returns worker → how it ended, or None if not known, for those of the workers that are registered."""
    sql = text("SELECT worker_id, closed_how FROM worker WHERE worker_id = ANY(:worker_ids)")
    with engine.connect() as connection:
        rows = connection.execute(sql, {"worker_ids": list(worker_ids)}).all()
    return {row.worker_id: row.closed_how for row in rows}


def select_workers(
    connection: Connection, state: Literal["live", "missing", "written_off"], limit: int
) -> list[WorkerRow]:
    """Returns up to `limit` workers in this state, in order of their start."""
    return [WorkerRow(*row) for row in connection.execute(_SELECT_WORKERS, {"state": state, "limit": limit})]


def select_worker_counts(connection: Connection) -> dict[tuple[str, str | None], int]:
    """Returns (state, host) → number of workers.

    The state is live, missing, closed or written_off; the host of the last two is None.
    """
    return {(row.state, row.host): row.workers for row in connection.execute(_SELECT_COUNTS)}


def select_silent_workers(connection: Connection) -> SilentWorkers:
    """Returns the workers that may be about to count as missing."""
    return SilentWorkers(*connection.execute(_SELECT_SILENT).one())


def select_unregistered(connection: Connection) -> UnregisteredLines:
    """Returns the ledger's data on workers of earlier versions."""
    return UnregisteredLines(*connection.execute(_SELECT_UNREGISTERED).one())


def delete_closed_workers(engine: Engine, now: datetime) -> int:
    """Deletes workers closed more than KEPT before `now`, and merges their ledger lines into that of EARLIER_WORKERS.

    The sums over the ledger stay the same at every instant. Written-off workers are kept, so that their journal is
    delivered correctly if it turns up again.

    Returns:
        The number of deleted workers.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        deleted: int = connection.execute(_DELETE_CLOSED, {"before": now - KEPT}).scalar_one()
    return deleted
