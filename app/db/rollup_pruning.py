"""Deletes sums by minute and hour that no window needs any more; sums by day are kept for ever."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from app.db import rollup_tables as rollups
from app.db.insert_sql import INSERT_LOCK

# Windows that are exact to the minute reach back 30 days at most; two more days allow for slow clocks.
FINE_LEVELS_KEPT = timedelta(days=32)

# There may be thousands of keys and models, so their minutes are kept only for windows of up to two days, and a day
# longer for slow clocks. Longer windows of a key or a model begin on a whole hour.
SUBJECT_MINUTES_KEPT = timedelta(days=3)

# The fold and workers of earlier code wait while a batch is deleted; one of this size takes about ten milliseconds.
DELETE_BATCH_ROWS = 5_000

_BY_SUBJECT = (rollups.outcome_usage, rollups.model_usage, rollups.latency_usage)
_OTHERS = (
    rollups.key_presence,
    rollups.usage_rollup,
    rollups.model_rollup,
    rollups.latency_rollup,
    rollups.key_seen,
)


def delete_fine_rollups(engine: Engine, now: datetime) -> int:
    """Deletes the rows that by the constants above are too old at `now`; returns their number.

    Rows are deleted in small batches, each under the insert lock, so this neither deadlocks with a fold nor delays it
    for long.
    """
    deleted = 0
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for level in ("minute", "hour"):
            kept = SUBJECT_MINUTES_KEPT if level == "minute" else FINE_LEVELS_KEPT
            for table in _BY_SUBJECT:
                # Two statements, because the primary key finds one kind of rows and an index the other.
                name = f"{table.name}_{level}"
                all_requests = f"level = '{level}' AND subject = ''"
                deleted += _delete_before(connection, name, now - FINE_LEVELS_KEPT, all_requests)
                deleted += _delete_before(connection, name, now - kept, "subject <> ''")
            for table in _OTHERS:
                deleted += _delete_before(connection, f"{table.name}_{level}", now - FINE_LEVELS_KEPT, "true")
    return deleted


def _delete_before(connection: Connection, table: str, before: datetime, condition: str) -> int:
    query = text(f"""
        WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({INSERT_LOCK}))
        DELETE FROM {table} USING turn WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {table} WHERE start < :before AND {condition} LIMIT {DELETE_BATCH_ROWS}))""")
    deleted = 0
    while True:
        batch = connection.execute(query, {"before": before}).rowcount
        deleted += batch
        if batch < DELETE_BATCH_ROWS:
            return deleted
