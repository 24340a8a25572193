"""The SQL text of the statement that inserts rows of activity.

A single statement is one transaction and one round trip. Rows that the table already has are skipped, and a trigger
counts only the rows actually inserted (app/db/rollup_tables.py), so sending a batch again changes nothing. The same
statement notes retries among the new rows, so that they can be linked to their originals (app/db/retries.py).

Rows are inserted in the order of their primary key. Two statements with some of the same rows, such as those of an
adopter and of the worker that it believes dead, then wait for each other in one direction only and cannot deadlock.
"""

from __future__ import annotations

from sqlalchemy import Column, Text
from sqlalchemy.dialects import postgresql

from app.config import MAX_NAME_CHARACTERS
from app.db import tables

# "activity" in ASCII, cut to 32 bits; no other advisory lock of the gateway has this number. Code that changes sums
# holds it: the fold (app/db/fold.py), the pruning, and the inserts of the code before migration 0007.
INSERT_LOCK = 0x61637469

# The worker_id of rows that come from no worker's journal. It is not NULL, because NULL marks rows inserted by the code
# before migration 0007.
NO_WORKER = "none"

# Columns that rows of a journal never have; app/db/retries.py and app/db/repricing.py write them.
WRITTEN_LATER = ("retry_of", "retried_by", "repriced")

_COLUMNS = [column for column in tables.activity.columns if column.name not in WRITTEN_LATER]


def insert_activity_sql(source: str | None = None, also: str | None = None) -> str:
    """Returns the statement; its result is the number of rows inserted.

    Args:
        source: an item of a FROM clause with the columns of activity; by default the parameter `rows`, a JSON
            array of objects.
        also: an INSERT to execute in the same statement; the parameter `ledger` is then the ledger line of the worker,
            whose id the rows get.
    """
    worker_id = "CAST(%(ledger)s AS jsonb) ->> 'worker_id'" if also else f"'{NO_WORKER}'"
    return f"""
WITH inserted AS ({_insert_rows(source or _json_rows(), worker_id)}),
retries AS (
    INSERT INTO unlinked_retry (request_id, started_at)
    SELECT request_id, started_at FROM inserted WHERE client_retry > 0 AND body_digest IS NOT NULL
    ON CONFLICT DO NOTHING)
{f", also AS ({also})" if also else ""}
SELECT count(*) FROM inserted"""


def select_days_sql() -> str:
    """Returns the query for the UTC days of the rows in the parameter `rows`, a JSON array as above.

    Omits days before 2020 or after 2119, which only a wrong clock can cause; they get no partition.
    """
    return """
SELECT DISTINCT CAST(started_at AT TIME ZONE 'UTC' AS date) AS day
FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r (started_at timestamptz)
WHERE started_at >= '2020-01-01 00:00+00' AND started_at < '2120-01-01 00:00+00'"""


def _json_rows() -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = ", ".join(f"{column.name} {column.type.compile(dialect)}" for column in _COLUMNS)
    return f"jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r ({types})"


def _insert_rows(source: str, worker_id: str) -> str:
    return f"""
    INSERT INTO activity ({", ".join(column.name for column in _COLUMNS)})
    SELECT {", ".join(worker_id if column.name == "worker_id" else _value(column) for column in _COLUMNS)}
    FROM {source}
    ORDER BY started_at, request_id
    ON CONFLICT DO NOTHING
    RETURNING request_id, started_at, client_retry, body_digest"""


def _value(column: Column[object]) -> str:
    if not isinstance(column.type, Text):
        return column.name
    most = tables.MAX_MESSAGE_CHARACTERS if column.name == "error_message" else MAX_NAME_CHARACTERS
    return f"left({column.name}, {most})"
