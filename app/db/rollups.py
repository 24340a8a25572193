"""Sums and histograms of activity over a window, read from the rollups alone.

A window whose rows of activity retention has dropped therefore reads the same as before. Minutes and hours are only
needed at the ends of windows that reach back from now, 30 days at most; older ones are deleted, and a window that
begins earlier begins with its UTC day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Subquery,
    Table,
    cast,
    func,
    literal,
    select,
    text,
    tuple_,
    union_all,
)

from app.db.insert_sql import INSERT_LOCK
from app.db.tables import key_rollup, key_usage, latency_rollup, usage_rollup
from app.db.windows import Span, compose_window

# The longest window that reaches back from now is 30 days; two more let a late reader and a slow clock be.
FINE_LEVELS_KEPT = timedelta(days=32)

# A batch of deletions holds back the batches of inserts, and so many take some ten milliseconds.
DELETE_BATCH_ROWS = 5_000

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Sums(NamedTuple):
    """What is added up. Costs are in USD; tokens per second are `speed_tokens` / `speed_ms` × 1000."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_exact: Decimal = Decimal(0)
    cost_estimated: Decimal = Decimal(0)
    unpriced_requests: int = 0
    speed_tokens: int = 0
    speed_ms: float = 0.0


class UsageRow(NamedTuple):
    """Sums of one model, outcome and error type; '' where a request had no model or no error."""

    model: str
    outcome: str
    error_type: str
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
    """All that statistics need of one window.

    Attributes:
        rows: sums by model × outcome × error type.
        series: sums by step × outcome, oldest first; steps without requests are absent.
        keys: how many different keys made requests.
        histograms: metric ("ttft", "duration") → bucket → count; app/db/histogram.py reads percentiles from them.
    """

    rows: list[UsageRow]
    series: list[SeriesRow]
    keys: int
    histograms: dict[str, dict[int, int]]


def select_usage(
    connection: Connection, *, start: datetime, end: datetime, step: timedelta, gateway: str | None = None
) -> Usage:
    """Reads the sums of requests that started in [start, end).

    Args:
        start, end: whole minutes with a timezone. Before `FINE_LEVELS_KEPT` ago, `start` must be a UTC midnight.
        step: of the series: whole minutes below an hour, whole hours below a day, or whole days. Steps are
            aligned to UTC midnights, so the first and the last may be cut by the window. The shorter the step,
            the more rows are read: minutes are for windows of hours, hours for windows of days.
        gateway: one gateway, or None for all of them.

    Raises:
        ValueError: `start`, `end` or `step` is not as above.
    """
    spans, coarse = compose_window(start, end, step), compose_window(start, end)
    if not spans:
        return Usage([], [], 0, {})
    rows, series = _select_sums(connection, spans, step, gateway)
    keys = _select_key_count(connection, coarse, gateway)
    return Usage(rows, series, keys, _select_histograms(connection, coarse, gateway))


def sum_up(sums: Iterable[Sums]) -> Sums:
    """Returns the sum of sums, all zero for none."""
    columns = zip(Sums(), *sums, strict=True)
    return Sums(*(sum(column) for column in columns))


def select_key_usage(
    connection: Connection, *, first: date, last: date, key_id: str | None = None
) -> list[KeyUsageRow]:
    """Returns the sums of one key, or of all, by UTC day from `first` to `last` (both included), gateway, model."""
    table = key_usage.c
    query = select(table.key_id, table.day, table.gateway, table.model, *[table[name] for name in Sums._fields])
    query = query.where(table.day.between(first, last)).order_by(*key_usage.primary_key.columns)
    if key_id is not None:
        query = query.where(table.key_id == key_id)
    return [KeyUsageRow(row[0], row[1], row[2], row[3], Sums(*row[4:])) for row in connection.execute(query)]


def select_outcome_counts(connection: Connection) -> dict[str, int]:
    """Returns outcome → number of requests since the beginning, purged ones included."""
    count = cast(func.sum(usage_rollup.c.requests), BigInteger)
    query = select(usage_rollup.c.outcome, count).where(usage_rollup.c.level == "day")
    return {row[0]: row[1] for row in connection.execute(query.group_by(usage_rollup.c.outcome))}


def select_first_day(connection: Connection) -> date | None:
    """Returns the UTC day of the oldest request ever counted, None when there is none."""
    query = select(func.min(usage_rollup.c.start)).where(usage_rollup.c.level == "day")
    oldest: datetime | None = connection.execute(query).scalar()
    return None if oldest is None else oldest.astimezone(UTC).date()


def delete_fine_rollups(engine: Engine, now: datetime) -> int:
    """Deletes minutes and hours older than `FINE_LEVELS_KEPT` before `now`; returns how many rows went.

    Days are kept for ever. It works in small batches, each under the insert lock, so that it neither deadlocks
    with an insert of late rows nor keeps one waiting.
    """
    deleted = 0
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in [usage_rollup, key_rollup, latency_rollup]:
            for level in ["minute", "hour"]:
                deleted += _delete_before(connection, f"{table.name}_{level}", now - FINE_LEVELS_KEPT)
    return deleted


def _select_sums(
    connection: Connection, spans: list[Span], step: timedelta, gateway: str | None
) -> tuple[list[UsageRow], list[SeriesRow]]:
    names = ["model", "outcome", "error_type", *Sums._fields]
    rows = _rows_in(usage_rollup, spans, gateway, ["start", *names])
    bucket = func.date_bin(literal(step), rows.c.start, literal(_EPOCH)).label("bucket")
    columns = [rows.c.model, rows.c.outcome, rows.c.error_type, bucket]
    sums = [cast(func.sum(rows.c[name]), usage_rollup.c[name].type) for name in Sums._fields]
    # One pass over the rows makes both groupings; in a row of the first, the bucket is NULL.
    sets = func.grouping_sets(tuple_(*columns[:3]), tuple_(rows.c.outcome, bucket))
    result = connection.execute(select(*columns, *sums).group_by(sets).order_by(bucket)).all()
    usage = [UsageRow(row[0], row[1], row[2], Sums(*row[4:])) for row in result if row.bucket is None]
    series = [SeriesRow(row.bucket, row.outcome, Sums(*row[4:])) for row in result if row.bucket is not None]
    return usage, series


def _select_key_count(connection: Connection, spans: list[Span], gateway: str | None) -> int:
    rows = _rows_in(key_rollup, spans, gateway, ["key_id"])
    return connection.execute(select(func.count(rows.c.key_id.distinct()))).scalar_one()


def _select_histograms(connection: Connection, spans: list[Span], gateway: str | None) -> dict[str, dict[int, int]]:
    rows = _rows_in(latency_rollup, spans, gateway, ["metric", "bucket", "count"])
    count = cast(func.sum(rows.c.count), BigInteger)
    histograms: dict[str, dict[int, int]] = defaultdict(dict)
    for row in connection.execute(select(rows.c.metric, rows.c.bucket, count).group_by(*rows.c[:2])):
        histograms[row[0]][row[1]] = row[2]
    return dict(histograms)


def _rows_in(table: Table, spans: list[Span], gateway: str | None, names: list[str]) -> Subquery:
    """Returns the table's rows in the spans: one range of the primary key of one partition for each."""
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
