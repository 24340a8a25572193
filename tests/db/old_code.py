"""The code before migration 0007: its original insert statement, and its sums."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from app.db.partitions import insert_partitions
from app.db.sums import Sums
from tests.db.brute_force import rounded
from tests.db.rows import Row, encode

# The insert statement with its ledger line, as printed by the last commit before the migration.
_INSERT = (Path(__file__).parent / "old_insert.sql").read_text()

_COUNTS = ("in_flight", "unshipped", "unrecorded", "rejected", "unsent", "direct", "segment", "byte_offset")

# Earlier table → its columns, and the later table that has the same sums of all requests.
_SAME = {
    "usage_rollup": ("level, start, gateway, outcome, error_type", "outcome_usage WHERE subject = ''"),
    "model_rollup": ("level, start, gateway, model", "model_usage WHERE subject = ''"),
    "key_usage": (
        "key_id, day, gateway, model",
        "(SELECT *, substr(subject, 5) AS key_id, CAST(start AS date) AS day FROM model_usage"
        " WHERE level = 'day' AND subject LIKE 'key:%') AS days",
    ),
}


def insert_old(engine: Engine, rows: Sequence[Row], worker_id: str = "old", version: int = 1) -> int:
    """Inserts rows as a worker of that code does; returns how many were new."""
    return insert_old_lines(engine, encode(rows), worker_id, version)


def insert_old_lines(engine: Engine, lines: Iterable[bytes], worker_id: str = "old", version: int = 1) -> int:
    """As `insert_old`, with the lines of a journal; the partitions of their days must exist."""
    line = {"worker_id": worker_id, "version": version, "started": 0, **dict.fromkeys(_COUNTS, 0)}
    values = {"rows": (b"[" + b",".join(lines) + b"]").decode(), "ledger": json.dumps(line)}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return int(connection.exec_driver_sql(_INSERT, values).scalar_one())


def make_partitions(engine: Engine, rows: Iterable[Row]) -> None:
    """Makes the partitions of the days of the rows."""
    with engine.begin() as connection:
        insert_partitions(connection, list({row["started_at"].date() for row in rows}))


def check_old_sums(engine: Engine) -> None:
    """Fails unless the earlier tables have the same sums as the later ones."""
    for table, (key, later) in _SAME.items():
        assert _sums(engine, f"SELECT {key}, {', '.join(Sums._fields)} FROM {table}", key) == _sums(
            engine,
            f"SELECT {key}, {', '.join(f'sum({name})' for name in Sums._fields)} FROM {later} GROUP BY {key}",
            key,
        ), table
    entries = "(SELECT sum(count) FROM unnest(counts) AS count) AS n, array_length(buckets, 1) AS different"
    old = _rows(engine, f"SELECT level, start, gateway, metric, {entries} FROM latency_rollup")
    new = _rows(
        engine,
        """SELECT level, start, gateway, metric, sum(count), count(DISTINCT bucket) FROM latency_usage
        CROSS JOIN LATERAL unnest(buckets, counts) AS pairs (bucket, count) WHERE subject = '' GROUP BY 1, 2, 3, 4""",
    )
    assert sorted(old) == sorted(new)
    seen = _rows(engine, "SELECT * FROM key_seen")
    assert sorted(seen) == sorted(_rows(engine, "SELECT DISTINCT level, start, gateway, key_id FROM key_presence"))


def _sums(engine: Engine, sql: str, key: str) -> dict[Any, Sums]:
    length = len(key.split(","))
    return {row[:length]: rounded(Sums(*row[length:])) for row in _rows(engine, sql)}


def _rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql.replace("key:", r"key\:")))]
