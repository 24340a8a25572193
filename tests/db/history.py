"""A large made-up history of requests, written by the gateway's own insert statement from a generated series."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from sqlalchemy import Engine, text
from sqlalchemy.dialects import postgresql

from app.db import tables
from app.db.insert_sql import insert_activity_sql
from app.db.partitions import insert_partitions


def insert_history(
    engine: Engine, *, rows: int, last: date, days: int, models: int = 50, keys: int = 20
) -> Iterator[int]:
    """Spreads `rows` requests evenly over the `days` UTC days up to `last`; yields the number of rows of each day.

    One request in ten fails, with one of three error types; every model, key and outcome occurs throughout.
    """
    first = last - timedelta(days=days - 1)
    with engine.begin() as connection:
        insert_partitions(connection, [first + timedelta(days=day) for day in range(days)])
    per_day = rows // days
    statement = insert_activity_sql(f"({_SOURCE.format(columns=_columns())}) AS generated")
    for day in range(days):
        values = {"day": first + timedelta(days=day), "rows": per_day, "models": models, "keys": keys}
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            yield int(connection.exec_driver_sql(statement, values).scalar_one())


# Hashes of a row's number within its day serve as random numbers: all days are alike, without a pattern within a day.
_SOURCE = """
    SELECT {columns} FROM (
        SELECT n, hashint8(n) & 2147483647 AS a, hashint8(n + 1000000007) & 2147483647 AS b,
            hashint8(n + 2000000011) & 2147483647 AS c
        FROM generate_series(1, %(rows)s) AS n) AS numbers"""

_VALUES = {
    "request_id": "gen_random_uuid()",
    "started_at": "CAST(%(day)s AS timestamp) AT TIME ZONE 'UTC' + n * interval '1 day' / (%(rows)s + 1.0)",
    "key_id": "'key-' || a %% %(keys)s",
    "gateway": "(ARRAY['fireworks', 'fireworks', 'featherless', 'deepinfra'])[1 + b %% 4]",
    "endpoint": "'/v1/chat/completions'",
    "model_requested": "'accounts/fireworks/models/example-' || c %% %(models)s",
    "model_served": "'accounts/fireworks/models/example-' || c %% %(models)s",
    "stream": "a %% 2 = 0",
    "status": "CASE WHEN b %% 100 < 10 THEN 502 ELSE 200 END",
    "outcome": "CASE WHEN b %% 100 < 7 THEN 'upstream_error' WHEN b %% 100 < 10 THEN 'upstream_timeout' ELSE 'ok' END",
    "prompt_tokens": "a %% 4000",
    "completion_tokens": "b %% 900",
    "cached_tokens": "c %% 500",
    "reasoning_tokens": "0",
    "usage_source": "'provider'",
    "cost_usd": "(a %% 100000) * 0.00000001",
    "cost_kind": "CASE WHEN c %% 20 = 0 THEN 'estimated' ELSE 'exact' END",
    "duration_ms": "exp(6 + (a %% 10000) / 2500.0)",
    "ttft_ms": "exp(4 + (b %% 10000) / 2500.0)",
    "tokens_per_second": "20 + c %% 100",
    "error_type": "(ARRAY['upstream_error', 'upstream_timeout', 'rate_limit_error'])"
    "[CASE WHEN b %% 100 < 10 THEN 1 + c %% 3 END]",
}


def _columns() -> str:
    dialect = postgresql.dialect()
    types = {column.name: column.type.compile(dialect) for column in tables.activity.columns}
    nulls = {name: f"CAST(NULL AS {type_})" for name, type_ in types.items()}
    return ", ".join(f"{value} AS {name}" for name, value in (nulls | _VALUES).items())
