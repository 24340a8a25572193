"""Sums and histograms of activity over a time window, read only from the rollups.

Statistics therefore stay the same when retention drops rows of activity. Minutes and hours are needed only at the two
ends of windows of up to 30 days before now; older ones are deleted, and an older window begins at a UTC midnight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Subquery,
    Table,
    cast,
    func,
    literal,
    select,
    text,
    true,
    tuple_,
    union_all,
)

from app.db.insert_sql import INSERT_LOCK
from app.db.tables import key_seen, key_usage, latency_rollup, model_rollup, usage_rollup
from app.db.windows import Span, compose_window

# Windows that are exact to the minute reach back 30 days at most; two more days allow for slow clocks.
FINE_LEVELS_KEPT = timedelta(days=32)

# Inserts wait while a batch is deleted; one of this size takes about ten milliseconds.
DELETE_BATCH_ROWS = 5_000

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Sums(NamedTuple):
    """Sums over requests. Costs are in USD; tokens per second are `speed_tokens` / `speed_ms` × 1000."""

    requests: int = 0
    ok_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_exact: Decimal = Decimal(0)
    cost_estimated: Decimal = Decimal(0)
    unpriced_requests: int = 0
    speed_tokens: int = 0
    speed_ms: float = 0.0


class OutcomeRow(NamedTuple):
    """Sums of one outcome and error type; the error type is '' where there was none."""

    outcome: str
    error_type: str
    sums: Sums


class ModelRow(NamedTuple):
    """Sums of one model; '' stands for requests whose model neither a list nor a response confirmed."""

    model: str
    sums: Sums


class SeriesRow(NamedTuple):
    """Sums of one outcome in the step that begins at `start`."""

    start: datetime
    outcome: str
    sums: Sums


class KeyUsageRow(NamedTuple):
    """Sums of one key, UTC day, gateway and model."""

    key_id: str
    day: date
    gateway: str
    model: str
    sums: Sums


@dataclass(frozen=True)
class Usage:
    """All sums of one window that statistics need.

    Attributes:
        outcomes: sums by outcome × error type; together they are the sums of all requests.
        models: sums by model, most requests first.
        series: sums by step × outcome, oldest first; steps without requests are absent.
        keys: how many different keys made requests.
        histograms: metric ("ttft", "duration") → bucket → count; app/db/histogram.py reads percentiles from them.
            Rejected and lost requests are left out.
    """

    outcomes: list[OutcomeRow]
    models: list[ModelRow]
    series: list[SeriesRow]
    keys: int
    histograms: dict[str, dict[int, int]]


def select_usage(
    connection: Connection, *, start: datetime, end: datetime, step: timedelta, gateway: str | None = None
) -> Usage:
    """Returns the sums of requests that started in [start, end).

    Args:
        start, end: whole minutes with a timezone. Before `FINE_LEVELS_KEPT` ago, `start` must be a UTC midnight.
        step: the step of the series: whole minutes below an hour, whole hours below a day, or whole days. Steps are
            aligned to UTC midnights, so the first and the last may be cut by the window. The shorter the step,
            the more rows are read: minutes are for windows of hours, hours for windows of days.
        gateway: one gateway, or None for all of them.

    Raises:
        ValueError: `start`, `end` or `step` is not as above.
    """
    spans, coarse = compose_window(start, end, step), compose_window(start, end)
    if not spans:
        return Usage([], [], [], 0, {})
    outcomes, series = _select_outcomes(connection, spans, step, gateway)
    return Usage(
        outcomes,
        _select_models(connection, coarse, gateway),
        series,
        _select_key_count(connection, coarse, gateway),
        _select_histograms(connection, coarse, gateway),
    )


def sum_up(sums: Iterable[Sums]) -> Sums:
    """Returns the total of several sums; zeros for none."""
    columns = zip(Sums(), *sums, strict=True)
    return Sums(*(sum(column) for column in columns))


def select_key_usage(
    connection: Connection, *, first: date, last: date, key_id: str | None = None
) -> list[KeyUsageRow]:
    """Returns the sums of one key, or of each, by UTC day (`first` to `last`, both included), gateway and model."""
    table = key_usage.c
    query = select(table.key_id, table.day, table.gateway, table.model, *[table[name] for name in Sums._fields])
    query = query.where(table.day.between(first, last)).order_by(*key_usage.primary_key.columns)
    if key_id is not None:
        query = query.where(table.key_id == key_id)
    return [KeyUsageRow(row[0], row[1], row[2], row[3], Sums(*row[4:])) for row in connection.execute(query)]


def select_outcome_counts(connection: Connection) -> dict[str, int]:
    """Returns outcome → number of all requests ever recorded, including dropped rows."""
    count = cast(func.sum(usage_rollup.c.requests), BigInteger)
    query = select(usage_rollup.c.outcome, count).where(usage_rollup.c.level == "day")
    return {row[0]: row[1] for row in connection.execute(query.group_by(usage_rollup.c.outcome))}


def select_first_day(connection: Connection) -> date | None:
    """Returns the UTC day of the oldest request ever counted; None when there is none."""
    query = select(func.min(usage_rollup.c.start)).where(usage_rollup.c.level == "day")
    oldest: datetime | None = connection.execute(query).scalar()
    return None if oldest is None else oldest.astimezone(UTC).date()


def delete_fine_rollups(engine: Engine, now: datetime) -> int:
    """Deletes minute and hour rows older than `FINE_LEVELS_KEPT` before `now`; returns the number of deleted rows.

    Day rows are kept for ever. Rows are deleted in small batches, each under the insert lock, so that this neither
    deadlocks with an insert of late rows nor delays it for long.
    """
    deleted = 0
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in [usage_rollup, model_rollup, key_seen, latency_rollup]:
            for level in ["minute", "hour"]:
                deleted += _delete_before(connection, f"{table.name}_{level}", now - FINE_LEVELS_KEPT)
    return deleted


def _select_outcomes(
    connection: Connection, spans: list[Span], step: timedelta, gateway: str | None
) -> tuple[list[OutcomeRow], list[SeriesRow]]:
    rows = _rows_in(usage_rollup, spans, gateway, ["start", "outcome", "error_type", *Sums._fields])
    bucket = func.date_bin(literal(step), rows.c.start, literal(_EPOCH)).label("bucket")
    # One pass over the rows computes both groupings; rows of the first have no bucket.
    sets = func.grouping_sets(tuple_(rows.c.outcome, rows.c.error_type), tuple_(rows.c.outcome, bucket))
    query = select(rows.c.outcome, rows.c.error_type, bucket, *_sums(rows)).group_by(sets).order_by(bucket)
    result = connection.execute(query).all()
    outcomes = [OutcomeRow(row[0], row[1], Sums(*row[3:])) for row in result if row[2] is None]
    return outcomes, [SeriesRow(row[2], row[0], Sums(*row[3:])) for row in result if row[2] is not None]


def _select_models(connection: Connection, spans: list[Span], gateway: str | None) -> list[ModelRow]:
    rows = _rows_in(model_rollup, spans, gateway, ["model", *Sums._fields])
    query = select(rows.c.model, *_sums(rows)).group_by(rows.c.model)
    models = [ModelRow(row[0], Sums(*row[1:])) for row in connection.execute(query)]
    return sorted(models, key=lambda row: (-row.sums.requests, row.model))


def _select_key_count(connection: Connection, spans: list[Span], gateway: str | None) -> int:
    rows = _rows_in(key_seen, spans, gateway, ["key_id"])
    return connection.execute(select(func.count(rows.c.key_id.distinct()))).scalar_one()


def _select_histograms(connection: Connection, spans: list[Span], gateway: str | None) -> dict[str, dict[int, int]]:
    rows = _rows_in(latency_rollup, spans, gateway, ["metric", "buckets", "counts"])
    entries = func.unnest(rows.c.buckets, rows.c.counts).table_valued("bucket", "count").render_derived()
    count = cast(func.sum(entries.c.count), BigInteger)
    query = select(rows.c.metric, entries.c.bucket, count).join_from(rows, entries, true())
    histograms: dict[str, dict[int, int]] = defaultdict(dict)
    for metric, bucket, number in connection.execute(query.group_by(rows.c.metric, entries.c.bucket)):
        histograms[metric][bucket] = number
    return dict(histograms)


def _sums(rows: Subquery) -> list[ColumnElement[Any]]:
    # PostgreSQL's sum of bigint is numeric, which the driver would return as a Decimal.
    return [cast(func.sum(rows.c[name]), usage_rollup.c[name].type) for name in Sums._fields]


def _rows_in(table: Table, spans: list[Span], gateway: str | None, names: list[str]) -> Subquery:
    """Returns the table's rows in the spans; each span is one primary key range of one partition."""
    columns = table.c
    queries = []
    for span in spans:
        query = select(*[columns[name] for name in names]).where(
            columns.level == span.level, columns.start >= span.start, columns.start < span.end
        )
        queries.append(query if gateway is None else query.where(columns.gateway == gateway))
    return union_all(*queries).subquery()


def _delete_before(connection: Connection, table: str, before: datetime) -> int:
    query = text(f"""
        WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({INSERT_LOCK}))
        DELETE FROM {table} USING turn WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {table} WHERE start < :before LIMIT {DELETE_BATCH_ROWS}))""")
    deleted = 0
    while True:
        batch = connection.execute(query, {"before": before}).rowcount
        deleted += batch
        if batch < DELETE_BATCH_ROWS:
            return deleted
