"""Recounts the records of a day into the sums, if records were inserted without the triggers that count them.

That happens during a restore that is not one transaction, because a table gets its triggers last. The trigger's own
function counts the records, so the sums become what they would have been.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Engine, text

from app.db import rollup_tables as rollups
from app.db.insert_sql import INSERT_LOCK, NO_WORKER
from app.db.tables import activity

# Counting a day of many records takes minutes; each statement takes a part of that.
_LONG_TIMEOUT = text("SET LOCAL statement_timeout = '10min'")

# Meanwhile no record is inserted, changed or dropped, and no fold and no pruning runs. The locks are taken in this
# order, because the inserts of the code before migration 0007 take the lock of sums last.
_LOCKS = (
    text("LOCK TABLE ONLY activity IN SHARE ROW EXCLUSIVE MODE"),
    text(f"SELECT pg_advisory_xact_lock({INSERT_LOCK})"),
)

# Only the rows inserted into this copy are counted: it lacks the triggers of budgets and of failed attempts.
_MAKE_COPY = (
    text("CREATE TEMPORARY TABLE recounted (LIKE activity) ON COMMIT DROP"),
    text("""CREATE TRIGGER count_activity AFTER INSERT ON recounted REFERENCING NEW TABLE AS inserted
        FOR EACH STATEMENT EXECUTE FUNCTION count_activity()"""),
)
_EMPTY_COPY = text("TRUNCATE recounted")

# A record without a worker would count as already included in the earlier family of sums, which no longer has it here.
_COLUMNS = {column.name: column.name for column in activity.columns}
_VALUES = _COLUMNS | {"worker_id": f"coalesce(worker_id, '{NO_WORKER}')"}
_COUNT_PART = text(f"""
    INSERT INTO recounted ({", ".join(_COLUMNS)}) SELECT {", ".join(_VALUES.values())} FROM activity
    WHERE started_at >= :start AND started_at < :end""")

# All deltas present at this time are older than those of the recount.
_SELECT_LAST_DELTA = text("SELECT coalesce(max(id), 0) FROM rollup_delta")

# The sums may have records that are gone: retention dropped them, or a dump left them out. Then there are minutes with
# fewer records than the sums have. Of days whose minutes are pruned, that cannot be told. Nor of a day whose first
# requests came in the very minute of a dump without records, if as many of that minute were inserted without triggers.
_GROUP, _LEAST = "gateway, endpoint, outcome, error_type", ("requests", "prompt_tokens", "completion_tokens")
_IN_DAY = "minute >= :start AND minute < :end"
_SELECT_IS_COMPLETE = text(f"""
    WITH folded AS (
        SELECT level, start AS minute, {_GROUP}, {", ".join(_LEAST)} FROM outcome_usage
        WHERE level IN ('minute', 'day') AND subject = '' AND start >= :start AND start < :end),
    counted AS (
        SELECT minute, {_GROUP}, {", ".join(f"sum({name}) AS {name}" for name in _LEAST)} FROM (
            SELECT minute, {_GROUP}, {", ".join(_LEAST)} FROM folded WHERE level = 'minute'
            UNION ALL SELECT minute, {_GROUP}, {", ".join(_LEAST)} FROM rollup_delta WHERE {_IN_DAY} AND id <= :last
        ) AS parts GROUP BY minute, {_GROUP}),
    recorded AS (
        SELECT minute, {_GROUP}, {", ".join(f"sum({name}) AS {name}" for name in _LEAST)} FROM rollup_delta
        WHERE {_IN_DAY} AND id > :last GROUP BY minute, {_GROUP})
    SELECT coalesce((SELECT sum(CASE level WHEN 'day' THEN requests ELSE -requests END) FROM folded), 0) = 0
        AND NOT EXISTS (
            SELECT FROM counted LEFT JOIN recorded USING (minute, {_GROUP})
            WHERE {" OR ".join(f"counted.{name} > coalesce(recorded.{name}, 0)" for name in _LEAST)})""")

_BY_START = (
    rollups.outcome_usage,
    rollups.model_usage,
    rollups.latency_usage,
    rollups.key_presence,
    rollups.usage_rollup,
    rollups.model_rollup,
    rollups.latency_rollup,
    rollups.key_seen,
)
_DELETE_SUMS = (
    *(text(f"DELETE FROM {table.name} WHERE start >= :start AND start < :end") for table in _BY_START),
    text("DELETE FROM key_usage WHERE day = CAST(:start AT TIME ZONE 'UTC' AS date)"),
    text(f"DELETE FROM rollup_delta WHERE {_IN_DAY} AND id <= :last"),
)


def update_sums_of_day(engine: Engine, day: date) -> bool:
    """Replaces all sums of a UTC day with those of its records, in one transaction.

    Meanwhile no record reaches the database: new records wait in the journals. The charges of budgets and the counts of
    failed attempts of the last hour stay unchanged.

    Args:
        engine: an engine whose connections keep their settings, so not one through a pooler.
        day: a day with records.

    Returns:
        Whether the sums were replaced. If not, nothing changed, because they have or may have records that are gone.

    Raises:
        DatabaseError: the database is unavailable, or the table of records was in use for longer than the lock timeout.
    """
    start = datetime.combine(day, time(), UTC)
    with engine.connect() as connection, connection.begin() as transaction:
        for statement in (_LONG_TIMEOUT, *_LOCKS, *_MAKE_COPY):
            connection.execute(statement)
        values = {"start": start, "end": start + timedelta(days=1)}
        values["last"] = connection.execute(_SELECT_LAST_DELTA).scalar_one()
        for part in _split(start):
            connection.execute(_COUNT_PART, part)
            connection.execute(_EMPTY_COPY)
        if not connection.execute(_SELECT_IS_COMPLETE, values).scalar_one():
            transaction.rollback()
            return False
        for statement in _DELETE_SUMS:
            connection.execute(statement, values)
    return True


def _split(start: datetime) -> Iterator[dict[str, datetime]]:
    """Yields the hours of a day, so that the copy of its records stays small."""
    for hour in range(24):
        first = start + timedelta(hours=hour)
        yield {"start": first, "end": first + timedelta(hours=1)}
