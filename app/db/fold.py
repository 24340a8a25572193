"""Folds the deltas of activity into the tables of sums, and vacuums the deleted deltas.

One statement takes the oldest deltas and adds them to all sums, so a failed fold changes nothing and a repeated one
adds nothing twice. One process folds at a time, under the advisory lock with which workers of the code before migration
0007 write the earlier sums; other processes do not wait for it. Readers add the remaining deltas, so no statistic
depends on which process folds, or when.

The statement's snapshot may be older than its lock. That is safe under READ COMMITTED: a delta that another fold has
taken meanwhile is not deleted again, and ON CONFLICT acts on the newest committed row even if the snapshot does not
include it.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Engine, Table, text

from app.db import rollup_tables as rollups
from app.db.failed_attempts import IS_MERGE_DUE, MERGE_FAILED_ATTEMPTS
from app.db.insert_sql import INSERT_LOCK
from app.db.sums import Sums

# A fold of this many takes some 0.2 s if each delta has another key; one of a usual second takes 0.02 s.
MAX_DELTAS = 5_000

# A delta waits this long, so that all processes together fold about once a second. Every fold updates a row of each
# level for each subject, so a few large folds cost less than many small ones.
MIN_AGE_S = 1.0

# Deleted deltas stay in the pages that readers scan until they are vacuumed; PostgreSQL by itself does that once a
# minute at most. A vacuum of this many takes some 5 ms. If an old snapshot keeps them from being removed, the next
# vacuum waits.
MAX_DEAD_DELTAS = 10_000
VACUUM_INTERVAL_S = 10


class FoldResult(NamedTuple):
    """The number of folded deltas, and whether more are waiting."""

    folded: int
    has_more: bool


def fold_deltas(engine: Engine, *, min_age_s: float = MIN_AGE_S, limit: int = MAX_DELTAS) -> FoldResult:
    """Folds up to `limit` deltas if the oldest is at least `min_age_s` old and no other process folds.

    Also merges the counts of failed attempts and vacuums the table of deltas, if these are due.

    Raises:
        DatabaseError: the database is unavailable, slow or locked; nothing was folded.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        due = connection.execute(_SELECT_DUE, {"min_age_s": min_age_s}).one()
        folded = connection.execute(_FOLD, {"limit": limit}).scalar_one() if due.is_due else 0
        if due.is_merge_due:
            connection.execute(text(MERGE_FAILED_ATTEMPTS))
        if due.has_many_dead:
            # Skipped if another process vacuums.
            connection.execute(text("VACUUM (SKIP_LOCKED) rollup_delta"))
    return FoldResult(folded, folded >= limit)


# Queried first, because planning the fold takes longer than this query. A delta from the future is due too, because
# then the clock was set back.
_SELECT_DUE = text(f"""
    SELECT
        EXISTS (SELECT FROM (SELECT created_at FROM rollup_delta ORDER BY id LIMIT 1) AS oldest
            WHERE created_at NOT BETWEEN now() - make_interval(secs => :min_age_s) AND now()
                OR :min_age_s = 0) AS is_due,
        {IS_MERGE_DUE} AS is_merge_due,
        pg_stat_get_dead_tuples(to_regclass('rollup_delta')) > {MAX_DEAD_DELTAS} AND
            coalesce(pg_stat_get_last_vacuum_time(to_regclass('rollup_delta')), '-infinity')
                < now() - interval '{VACUUM_INTERVAL_S} s' AS has_many_dead""")

_LEVELS = """CROSS JOIN LATERAL (VALUES
        ('minute', minute),
        ('hour', date_trunc('hour', minute, 'UTC')),
        ('day', date_trunc('day', minute, 'UTC'))) AS levels (level, start)"""

_KEY, _MODEL = f"'{rollups.KEY_PREFIX}' || key_id", f"'{rollups.MODEL_PREFIX}' || nullif(model, '')"

_SUMS = ", ".join(f"sum({name}) AS {name}" for name in Sums._fields)

_NOT_IN_OLD_FAMILY = "taken WHERE NOT in_old_family"


def _subjects(*subjects: str) -> str:
    rows = ", ".join(f"({subject})" for subject in subjects)
    return f"taken CROSS JOIN LATERAL (VALUES {rows}) AS subjects (subject) WHERE subject IS NOT NULL"


def _add_sums(table: Table, source: str) -> str:
    """Returns the statement that adds the sums of the deltas in `source`, which has the table's other columns."""
    key = [column.name for column in table.primary_key]
    by_minute = ["minute" if name == "start" else name for name in key if name != "level"]
    names = ", ".join(key)
    return f"""
    INSERT INTO {table.name} ({names}, {", ".join(Sums._fields)})
    SELECT {names}, {_SUMS} FROM (
        SELECT {", ".join(by_minute)}, {_SUMS} FROM {source} GROUP BY {", ".join(by_minute)}) AS by_minute
    {_LEVELS if "level" in key else ""}
    GROUP BY {names}
    ON CONFLICT ({names}) DO UPDATE SET
        {", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in Sums._fields)}"""


def _add_presence(table: Table, source: str) -> str:
    names = ", ".join(column.name for column in table.primary_key)
    return f"""
    INSERT INTO {table.name} ({names}) SELECT DISTINCT {names} FROM {source} {_LEVELS} ON CONFLICT DO NOTHING"""


def _add_histograms(table: Table, source: str) -> str:
    """Like `_add_sums`. Buckets are counted by minute first, so that the levels multiply buckets and not requests."""
    key = [column.name for column in table.primary_key]
    names = ", ".join(key)
    by_minute = ", ".join("minute" if name == "start" else name for name in key if name != "level")
    return f"""
    INSERT INTO {table.name} ({names}, buckets, counts)
    SELECT {names}, array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket) FROM (
        SELECT {names}, bucket, CAST(sum(count) AS bigint) AS count FROM (
            SELECT {by_minute}, bucket, count(*) AS count FROM (SELECT * FROM {source}) AS deltas
            CROSS JOIN LATERAL (
                SELECT 'ttft', unnest(ttft_buckets) UNION ALL SELECT 'duration', unnest(duration_buckets)
            ) AS measured (metric, bucket)
            GROUP BY {by_minute}, bucket) AS by_minute
        {_LEVELS} GROUP BY {names}, bucket) AS histogram
    GROUP BY {names}
    ON CONFLICT ({names}) DO UPDATE SET (buckets, counts) = (
        SELECT array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket) FROM (
            SELECT bucket, CAST(sum(count) AS bigint) AS count FROM (
                SELECT * FROM unnest({table.name}.buckets, {table.name}.counts)
                UNION ALL SELECT * FROM unnest(excluded.buckets, excluded.counts)) AS parts (bucket, count)
            GROUP BY bucket) AS merged)"""


_EVERY_SUBJECT = _subjects("''", _KEY, _MODEL)
_KEY_DAYS = f"(SELECT *, CAST(minute AT TIME ZONE 'UTC' AS date) AS day FROM {_NOT_IN_OLD_FAMILY}) AS taken"

_FOLD = text(
    f"""
WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({INSERT_LOCK}) AS is_mine),
taken AS (
    DELETE FROM rollup_delta USING turn
    WHERE is_mine AND rollup_delta.ctid = ANY (ARRAY(SELECT ctid FROM rollup_delta ORDER BY id LIMIT :limit))
    RETURNING rollup_delta.*),
outcomes AS ({_add_sums(rollups.outcome_usage, _EVERY_SUBJECT)}),
models AS ({_add_sums(rollups.model_usage, _subjects("''", _KEY))}),
latencies AS ({_add_histograms(rollups.latency_usage, _EVERY_SUBJECT)}),
presence AS ({_add_presence(rollups.key_presence, "taken")}),
old_outcomes AS ({_add_sums(rollups.usage_rollup, _NOT_IN_OLD_FAMILY)}),
old_models AS ({_add_sums(rollups.model_rollup, _NOT_IN_OLD_FAMILY)}),
old_latencies AS ({_add_histograms(rollups.latency_rollup, _NOT_IN_OLD_FAMILY)}),
old_keys AS ({_add_sums(rollups.key_usage, _KEY_DAYS)}),
old_presence AS ({_add_presence(rollups.key_seen, f"(SELECT * FROM {_NOT_IN_OLD_FAMILY}) AS taken")})
SELECT count(*) FROM taken""".replace("'key:'", r"'key\:'").replace("'model:'", r"'model\:'")
)
