"""The tables of sums over activity, which retention keeps.

    rollup_delta    the contribution of one batch's rows to the sums; folded into the tables below within seconds
    outcome_usage   sums by subject × gateway × endpoint × outcome × error type
    model_usage     sums by subject × gateway × endpoint × model
    latency_usage   histograms by subject × gateway × endpoint × metric
    key_presence    which keys made requests, by gateway × endpoint
    failed_attempt  failures of targets before another target got the request, in the last hour

A trigger on activity (migration 0007) writes the deltas in the transaction that inserts the rows, so that every row is
counted once, whichever process inserts it. Deltas are only inserted, so writers never wait for each other.
app/db/fold.py moves them into the other tables, and readers add the remaining deltas.

A subject identifies the requests that a row sums: '' for all requests, 'key:<id>' for those of a key, 'model:<id>' for
those of a model that a list or a response confirmed. Another kind of subject needs another prefix but no new table.
Sums by model exist for '' and keys only; those of a model are in outcome_usage.

Each table has rows by minute, hour and day, and is list-partitioned by this level, so that the few day rows are stored
together. The tables are separate groupings: one of outcome × model × key would have as many minute rows as there are
requests, and no statistic needs it. Days are UTC days. Absent text is '', because NULLs would never conflict in a
primary key.

The number of rows is bounded: a key or a model adds to a table at most one row for each minute, hour or day in which it
had requests, times the combinations that occurred in it (gateway × endpoint × outcome × error type, and so on; usually
one or two). Minutes of keys and models are kept for three days, hours and the minutes of all requests for 32, days for
ever (app/db/rollup_pruning.py). A key that is busy in every minute thus has at most 4,320 minute rows, 768 hour rows
and a row for each day, times its combinations. Clients cannot invent models, and only the operator makes keys.

The earlier family (usage_rollup, model_rollup, latency_rollup, key_usage, key_seen) has the same sums of all requests,
and of keys by day. No current code reads it. The fold keeps it filled for workers of the code before migration 0007,
which write and read only this family, so that their statistics stay right beside newer workers and after a rollback.

A record counts for the target that ended the request. Targets that failed before are only in the record's attempts;
another trigger (migration 0012) adds them to failed_attempt, also by inserts alone. app/db/failed_attempts.py merges
and deletes these rows.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    func,
)

from app.db.tables import metadata as metadata

LEVELS = ("minute", "hour", "day")

# The subject of all requests, and the prefixes of the others.
ALL_REQUESTS = ""
KEY_PREFIX = "key:"
MODEL_PREFIX = "model:"


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def _sums() -> list[Column[Any]]:
    # The trigger computes the sums under these names, and the fold adds them up.
    return [
        Column("requests", BigInteger, nullable=False),
        Column("ok_requests", BigInteger, nullable=False),
        Column("prompt_tokens", BigInteger, nullable=False),
        Column("completion_tokens", BigInteger, nullable=False),
        Column("cached_tokens", BigInteger, nullable=False),
        Column("reasoning_tokens", BigInteger, nullable=False),
        Column("cost_exact", Numeric, nullable=False, comment="USD"),
        Column("cost_estimated", Numeric, nullable=False, comment="USD"),
        Column("unpriced_requests", BigInteger, nullable=False),
        Column("speed_tokens", BigInteger, nullable=False, comment="completion tokens of rows with a speed"),
        Column("speed_ms", Double, nullable=False, comment="their generation time"),
    ]


def _histogram() -> list[Column[Any]]:
    # Arrays, because a row per bucket would take ten times the bytes: in a quiet minute nearly every request has its
    # own bucket.
    return [
        Column("buckets", ARRAY(SmallInteger), nullable=False, comment="ascending; see app/db/histogram.py"),
        Column("counts", ARRAY(BigInteger), nullable=False, comment="of the buckets, in their order"),
    ]


def _by_level(name: str, key: list[Column[Any]], measures: list[Column[Any]]) -> Table:
    return Table(
        name,
        metadata,
        *key,
        *measures,
        PrimaryKeyConstraint(*[column.name for column in key]),
        postgresql_partition_by="LIST (level)",
    )


def _key(*dimensions: str, by_subject: bool = True) -> list[Column[Any]]:
    # Compared byte by byte, so that the rows of one kind of subject are adjacent in every database.
    subject: list[Column[Any]] = [Column("subject", Text(collation="C"), nullable=False)] if by_subject else []
    start: Column[Any] = Column("start", DateTime(timezone=True), nullable=False)
    return [_text("level"), *subject, start, *[_text(name) for name in dimensions]]


rollup_delta = Table(
    "rollup_delta",
    metadata,
    # A primary key only because logical replication requires one; it is also the order of the fold.
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("minute", DateTime(timezone=True), nullable=False),
    *[_text(name) for name in ("gateway", "endpoint", "model", "key_id", "outcome", "error_type")],
    Column("in_old_family", Boolean, nullable=False, comment="whether usage_rollup etc. have it already"),
    *_sums(),
    Column("ttft_buckets", ARRAY(SmallInteger), nullable=False, comment="one for each request with the time"),
    Column("duration_buckets", ARRAY(SmallInteger), nullable=False),
)

failed_attempt = Table(
    "failed_attempt",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("minute", DateTime(timezone=True), nullable=False),
    *[_text(name) for name in ("gateway", "model")],
    Column("requests", BigInteger, nullable=False, comment="that it failed, and that another target ended"),
)

outcome_usage = _by_level("outcome_usage", _key("gateway", "endpoint", "outcome", "error_type"), _sums())
model_usage = _by_level("model_usage", _key("gateway", "endpoint", "model"), _sums())
latency_usage = _by_level("latency_usage", _key("gateway", "endpoint", "metric"), _histogram())
key_presence = _by_level("key_presence", _key("gateway", "endpoint", "key_id", by_subject=False), [])

# The earlier family.
usage_rollup = _by_level("usage_rollup", _key("gateway", "outcome", "error_type", by_subject=False), _sums())
model_rollup = _by_level("model_rollup", _key("gateway", "model", by_subject=False), _sums())
latency_rollup = _by_level("latency_rollup", _key("gateway", "metric", by_subject=False), _histogram())
key_seen = _by_level("key_seen", _key("gateway", "key_id", by_subject=False), [])
key_usage = Table(
    "key_usage",
    metadata,
    _text("key_id"),
    Column("day", Date, nullable=False),
    _text("gateway"),
    _text("model"),
    *_sums(),
    PrimaryKeyConstraint("key_id", "day", "gateway", "model"),
)
