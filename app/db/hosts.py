"""Hosts in the registry of workers, and the write-off of journals of hosts that are gone.

A host is a name and a JOURNAL_DIR: records that one of its workers leaves there, another one delivers.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from app.db.workers import IS_MISSING, WORKER_STATE

_SELECT_HOSTS = text(f"""
    SELECT host, journal_dir, count(*) FILTER (WHERE state = 'live') AS live,
        count(*) FILTER (WHERE state = 'missing') AS missing, max(last_seen_at) AS last_seen_at,
        CAST(extract(epoch FROM now() - max(last_seen_at)) AS double precision) AS silent_s,
        CAST(coalesce(sum(in_flight) FILTER (WHERE state = 'missing'), 0) AS bigint) AS in_flight,
        CAST(coalesce(sum(unshipped) FILTER (WHERE state = 'missing'), 0) AS bigint) AS unshipped
    FROM (SELECT worker_id, host, journal_dir, last_seen_at, {WORKER_STATE} AS state FROM worker) AS seen
    LEFT JOIN worker_ledger USING (worker_id)
    WHERE state IN ('live', 'missing')
    GROUP BY host, journal_dir ORDER BY max(last_seen_at) NULLS FIRST, host, journal_dir LIMIT :limit""")

# Each of the two parameters may be NULL.
_SELECT_MISSING = text(f"""
    SELECT worker_id, coalesce(in_flight + unshipped, 0) AS requests FROM worker
    LEFT JOIN worker_ledger USING (worker_id)
    WHERE (worker_id = :worker_id OR host = :host) AND {IS_MISSING} ORDER BY worker_id""")

# From then on, the requests last reported by the workers count as unrecorded. Each of the two parameters may be NULL.
_WRITE_OFF = text(f"""
    WITH closed AS (
        UPDATE worker SET closed_at = now(), closed_how = 'written_off'
        WHERE (worker_id = :worker_id OR host = :host) AND {IS_MISSING} RETURNING worker_id),
    reported AS (
        SELECT worker_id, coalesce(in_flight + unshipped, 0) AS requests FROM closed
        LEFT JOIN worker_ledger USING (worker_id)),
    moved AS (
        UPDATE worker_ledger
        SET unrecorded = unrecorded + in_flight + unshipped, in_flight = 0, unshipped = 0, updated_at = now()
        FROM closed WHERE worker_ledger.worker_id = closed.worker_id)
    SELECT worker_id, requests FROM reported ORDER BY worker_id""")

_SELECT_LIVE = text(f"""
    SELECT worker_id FROM worker WHERE worker_id = ANY(:worker_ids) AND {WORKER_STATE} = 'live' ORDER BY worker_id""")


class HostRow(NamedTuple):
    """A host with live or missing workers; times are by PostgreSQL's clock.

    Attributes:
        host: None for workers that died before they were registered.
        live, missing: the numbers of its workers.
        silent_s: the seconds since its last report.
        in_flight, unshipped: the requests without a row of its missing workers, by their last reports.
    """

    host: str | None
    journal_dir: str | None
    live: int
    missing: int
    last_seen_at: datetime | None
    silent_s: float | None
    in_flight: int
    unshipped: int


def select_hosts(connection: Connection, limit: int) -> list[HostRow]:
    """Returns up to `limit` hosts, the longest silent first."""
    return [HostRow(*row) for row in connection.execute(_SELECT_HOSTS, {"limit": limit})]


def select_live_workers(connection: Connection, worker_ids: list[str]) -> list[str]:
    """Returns the workers among these that live, or lived some minutes ago."""
    return list(connection.execute(_SELECT_LIVE, {"worker_ids": worker_ids}).scalars())


def select_missing(connection: Connection, *, worker_id: str | None = None, host: str | None = None) -> dict[str, int]:
    """Returns the result that `update_written_off` would have, and changes nothing."""
    rows = connection.execute(_SELECT_MISSING, {"worker_id": worker_id, "host": host})
    return {row.worker_id: row.requests for row in rows}


def update_written_off(
    connection: Connection, *, worker_id: str | None = None, host: str | None = None
) -> dict[str, int]:
    """Closes a missing worker, or all of a host, and counts their requests without a row as unrecorded.

    If a journal turns up again, the worker that adopts it corrects the counts.

    Returns:
        Worker → the number of these requests by its last report. It may be too low: later requests, for instance in an
        outage of the database, are only in its journal. Empty if no such worker is missing.
    """
    rows = connection.execute(_WRITE_OFF, {"worker_id": worker_id, "host": host})
    return {row.worker_id: row.requests for row in rows}
