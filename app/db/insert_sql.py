"""The SQL text of the statement that writes rows of activity and all sums derived from them.

A single statement is one transaction and one round trip, and its lock is never held for a client that has stopped
responding. Rows that are in the table already are skipped, and only the rows really inserted reach the rollups,
so sending a batch again changes nothing.

An advisory lock admits one batch at a time: batches update the same rollup rows and would deadlock if they did so in
different orders. The statement's snapshot is older than the lock. That is safe under READ COMMITTED, because
ON CONFLICT acts on the newest committed row even if the snapshot does not show it.
"""

from __future__ import annotations

from sqlalchemy import Column, Table, Text
from sqlalchemy.dialects import postgresql

from app.config import MAX_NAME_CHARACTERS
from app.db import tables
from app.db.histogram import BUCKET_SQL

# "activity" in ASCII, cut to 32 bits; no other advisory lock of the gateway has this number.
INSERT_LOCK = 0x61637469

# A speed below one token in 1,000 s is a broken measurement and would overflow the sum of times.
MIN_TOKENS_PER_SECOND = 0.001

# Only a name that a list of models or a response confirmed is counted by itself. Otherwise a client could grow the
# rollups, which are kept for ever, by inventing models: a provider may refuse them with any status.
_MODEL = "coalesce(model_served, '')"

_SUMS = {
    "requests": "count(*)",
    "ok_requests": "count(*) FILTER (WHERE outcome = 'ok')",
    "prompt_tokens": "coalesce(sum(prompt_tokens), 0)",
    "completion_tokens": "coalesce(sum(completion_tokens), 0)",
    "cached_tokens": "coalesce(sum(cached_tokens), 0)",
    "reasoning_tokens": "coalesce(sum(reasoning_tokens), 0)",
    "cost_exact": "coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'exact'), 0)",
    "cost_estimated": "coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'estimated'), 0)",
    # A rejected request was sent to no provider, so it has no price that could be missing.
    "unpriced_requests": "count(*) FILTER (WHERE cost_kind = 'unknown' AND outcome <> 'rejected')",
    "speed_tokens": "coalesce(sum(completion_tokens) FILTER (WHERE speed_known), 0)",
    "speed_ms": "coalesce(sum(completion_tokens * 1000 / tokens_per_second) FILTER (WHERE speed_known), 0)",
}

_LEVELS = """CROSS JOIN LATERAL (VALUES
    ('minute', minute),
    ('hour', date_trunc('hour', minute, 'UTC')),
    ('day', date_trunc('day', minute, 'UTC'))) AS levels (level, start)"""

# Rejected requests measure no provider, and the end of a lost request was not seen.
_TIMED = "outcome NOT IN ('rejected', 'lost')"


def insert_activity_sql(source: str | None = None, also: str | None = None) -> str:
    """Returns the statement; its result is the number of rows inserted.

    Args:
        source: an item of a FROM clause with the columns of activity; by default the parameter `rows`, a JSON
            array of objects.
        also: an INSERT that is carried out in the same statement.
    """
    sums = ", ".join(f"{expression} AS {name}" for name, expression in _SUMS.items())
    by_minute = f"(SELECT *, {_DAY} AS day FROM counted) AS counted"
    return f"""
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({INSERT_LOCK})),
inserted AS ({_insert_rows(source or _json_rows())}),
counted AS (
    SELECT minute, gateway, model, key_id, outcome, error_type, {sums}
    FROM inserted GROUP BY minute, gateway, model, key_id, outcome, error_type),
usage AS ({_upsert_sums(tables.usage_rollup, f"counted {_LEVELS}")}),
models AS ({_upsert_sums(tables.model_rollup, f"counted {_LEVELS}")}),
key_days AS ({_upsert_sums(tables.key_usage, by_minute)}),
keys AS ({_insert_keys()}),
latencies AS ({_upsert_histograms()})
{f", also AS ({also})" if also else ""}
SELECT count(*) FROM inserted"""


def select_days_sql() -> str:
    """Returns the query for the UTC days of the rows in the parameter `rows`, a JSON array as above.

    Omits days that only a wrong clock can give, before 2020 or after 2119; they get no partition.
    """
    return """
SELECT DISTINCT CAST(started_at AT TIME ZONE 'UTC' AS date) AS day
FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r (started_at timestamptz)
WHERE started_at >= '2020-01-01 00:00+00' AND started_at < '2120-01-01 00:00+00'"""


_DAY = "CAST(minute AT TIME ZONE 'UTC' AS date)"

# Rows are counted by minute first, so that the three levels multiply the buckets and not the rows.
_BUCKETS = f"""
            SELECT minute, gateway, metric, {BUCKET_SQL.format(value="value_ms")} AS bucket, count(*) AS count
            FROM inserted
            CROSS JOIN LATERAL (VALUES ('ttft', ttft_ms), ('duration', duration_ms)) AS metrics (metric, value_ms)
            WHERE value_ms IS NOT NULL AND {_TIMED} GROUP BY minute, gateway, metric, bucket"""


def _json_rows() -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = ", ".join(f"{column.name} {column.type.compile(dialect)}" for column in tables.activity.columns)
    return f"jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r ({types})"


def _insert_rows(source: str) -> str:
    columns = list(tables.activity.columns)
    return f"""
    INSERT INTO activity ({", ".join(column.name for column in columns)})
    SELECT {", ".join(_value(column) for column in columns)}
    FROM turn CROSS JOIN {source}
    ON CONFLICT DO NOTHING
    RETURNING date_trunc('minute', started_at, 'UTC') AS minute, coalesce(gateway, '') AS gateway,
        {_MODEL} AS model, key_id, outcome, coalesce(error_type, '') AS error_type, cost_kind, cost_usd,
        prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, tokens_per_second, ttft_ms, duration_ms,
        coalesce(tokens_per_second >= {MIN_TOKENS_PER_SECOND} AND completion_tokens > 0, false) AS speed_known"""


def _value(column: Column[object]) -> str:
    if not isinstance(column.type, Text):
        return column.name
    most = tables.MAX_MESSAGE_CHARACTERS if column.name == "error_message" else MAX_NAME_CHARACTERS
    return f"left({column.name}, {most})"


def _upsert_sums(table: Table, source: str) -> str:
    """Returns the upsert that adds the sums of the FROM item `source` to a table, by its primary key."""
    key = ", ".join(column.name for column in table.primary_key)
    return f"""
    INSERT INTO {table.name} ({key}, {", ".join(_SUMS)})
    SELECT {key}, {", ".join(f"sum({name})" for name in _SUMS)} FROM {source} GROUP BY {key}
    ON CONFLICT ({key}) DO UPDATE SET
        {", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in _SUMS)}"""


def _insert_keys() -> str:
    return f"""
    INSERT INTO key_seen (level, start, gateway, key_id)
    SELECT DISTINCT level, start, gateway, key_id FROM counted {_LEVELS}
    ON CONFLICT DO NOTHING"""


def _upsert_histograms() -> str:
    key = "level, start, gateway, metric"
    return f"""
    INSERT INTO latency_rollup ({key}, buckets, counts)
    SELECT {key}, array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket) FROM (
        SELECT {key}, bucket, CAST(sum(count) AS bigint) AS count FROM ({_BUCKETS}) AS by_minute {_LEVELS}
        GROUP BY {key}, bucket) AS histogram
    GROUP BY {key}
    ON CONFLICT ({key}) DO UPDATE SET (buckets, counts) = (
        SELECT array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket) FROM (
            SELECT bucket, CAST(sum(count) AS bigint) AS count FROM (
                SELECT * FROM unnest(latency_rollup.buckets, latency_rollup.counts)
                UNION ALL SELECT * FROM unnest(excluded.buckets, excluded.counts)) AS parts (bucket, count)
            GROUP BY bucket) AS merged)"""
