"""The table worker_ledger: each worker's counts of its requests by outcome, to compare with activity.

In every snapshot, for every worker,

    started = rows + in_flight + unshipped + unrecorded + rejected + unsent

plus, after a restore, lost_in_restores, which app/db/reconciliation.py has counted. It holds because the statement that
writes a worker's rows also writes its ledger line. `select_integrity` returns the sums of all lines and the counts of
rows in the sums and their deltas, which retention does not drop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, select, text

from app.db.tables import worker_ledger

# The line for requests lost with a restored database: a negative number of requests begun, so that code before
# migration 0019 computes the right sums too.
LOST_IN_RESTORES = "lost in restores"


class LedgerLine(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one worker; the comments of worker_ledger in app/db/tables.py explain the columns."""

    worker_id: str
    version: int
    started: int = 0
    in_flight: int = 0
    unshipped: int = 0
    unrecorded: int = 0
    rejected: int = 0
    unsent: int = 0
    direct: int = 0
    segment: int = 0
    byte_offset: int = 0


_COLUMNS = ", ".join(LedgerLine.__struct_fields__)
_TYPES = ", ".join(f"{name} {'text' if name == 'worker_id' else 'bigint'}" for name in LedgerLine.__struct_fields__)
_CHANGES = ", ".join(f"{name} = excluded.{name}" for name in LedgerLine.__struct_fields__ if name != "worker_id")

# A statement that a worker stopped waiting for may be executed after the worker's next one. The version keeps the older
# line from replacing the newer.
UPSERT_LEDGER = f"""
    INSERT INTO worker_ledger ({_COLUMNS})
    SELECT {_COLUMNS} FROM jsonb_to_record(CAST(%(ledger)s AS jsonb)) AS line ({_TYPES})
    ON CONFLICT (worker_id) DO UPDATE SET {_CHANGES}, updated_at = now()
    WHERE excluded.version > worker_ledger.version"""

_SELECT_INTEGRITY = text(f"""
    SELECT
        (SELECT row_to_json(sums) FROM (
            SELECT coalesce(sum(started) FILTER (WHERE worker_id <> '{LOST_IN_RESTORES}'), 0) AS started,
                -coalesce(sum(started) FILTER (WHERE worker_id = '{LOST_IN_RESTORES}'), 0) AS lost_in_restores,
                coalesce(sum(in_flight), 0) AS in_flight,
                coalesce(sum(unshipped), 0) AS unshipped, coalesce(sum(unrecorded), 0) AS unrecorded,
                coalesce(sum(rejected), 0) AS rejected, coalesce(sum(unsent), 0) AS unsent
            FROM worker_ledger) AS sums) AS ledger,
        (SELECT json_object_agg(outcome, requests) FROM (
            SELECT outcome, sum(requests) AS requests FROM (
                SELECT outcome, requests FROM outcome_usage WHERE level = 'day' AND subject = ''
                UNION ALL SELECT outcome, requests FROM rollup_delta) AS rows
            GROUP BY outcome) AS counted) AS outcomes""")


def encode_ledger_line(line: LedgerLine) -> str:
    """Returns the parameter `ledger` of UPSERT_LEDGER."""
    return msgspec.json.encode(line).decode()


def upsert_ledger(engine: Engine, line: LedgerLine) -> None:
    """Writes a worker's line unless the table has a newer one."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(UPSERT_LEDGER, {"ledger": encode_ledger_line(line)})


def select_ledger_line(engine: Engine, worker_id: str) -> LedgerLine | None:
    """Returns a worker's line; None if it never wrote one."""
    return select_ledger_lines(engine, [worker_id]).get(worker_id)


def select_ledger_lines(engine: Engine, worker_ids: Sequence[str]) -> dict[str, LedgerLine]:
    """Returns worker → line for those of the workers that have one."""
    columns = [worker_ledger.c[name] for name in LedgerLine.__struct_fields__]
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(worker_ledger.c.worker_id.in_(worker_ids))).all()
    return {row.worker_id: LedgerLine(**row._mapping) for row in rows}


def select_integrity(connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the sums of all lines by column name, and the number of rows by outcome, from one snapshot."""
    row: Any = connection.execute(_SELECT_INTEGRITY).one()
    return row.ledger, row.outcomes or {}
