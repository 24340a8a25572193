"""Sums and histograms of activity over a time window, read only from the tables of sums and the deltas not folded yet.

So statistics stay the same when retention drops rows of activity, and they include a row as soon as its transaction is
committed. Minutes and hours are needed only at the two ends of windows within the last 30 days; older ones are deleted
(app/db/rollup_pruning.py), and an older window begins at a UTC midnight.

Call the functions with a connection whose statements share a snapshot (`app.db.read_connection`). Otherwise a fold
between two statements makes no sum wrong, but some sums may include new requests that others lack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Subquery,
    case,
    cast,
    func,
    literal,
    select,
    tuple_,
)

from app.db.rollup_rows import Selection, histogram_rows_in, rows_in
from app.db.rollup_tables import ALL_REQUESTS, key_presence, model_usage, outcome_usage, rollup_delta
from app.db.sums import Sums
from app.db.windows import Span, compose_window
from app.yielding import with_pauses

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# The number of histograms that are read between two pauses; each consists of two arrays.
_ARRAYS = 25

# A histogram: bucket → count; app/db/histogram.py reads percentiles from it.
Histogram = dict[int, int]


class OutcomeRow(NamedTuple):
    """Sums of one outcome and error type; the error type is '' if there was none."""

    outcome: str
    error_type: str
    sums: Sums


class EndpointRow(NamedTuple):
    """Sums of one endpoint, by the path of its route."""

    endpoint: str
    sums: Sums


class GatewayRow(NamedTuple):
    """Sums of one gateway, that is of a provider; '' stands for requests without one."""

    gateway: str
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


class ModelStepRow(NamedTuple):
    """Sums of one model in the step that begins at `start`; the model is None for all but the top models together."""

    start: datetime
    model: str | None
    sums: Sums


@dataclass(frozen=True)
class Usage:
    """All sums of one window that statistics need.

    Attributes:
        outcomes: sums by outcome × error type; together they are the sums of all requests.
        endpoints: sums by endpoint, most requests first.
        gateways: sums by gateway, most requests first.
        models: sums by model, most requests first; [] if the subject is a model.
        series: sums by step × outcome, oldest first; steps without requests are absent.
        model_series: sums by step × model, oldest first, within a step most requests first; [] if not asked for.
        keys: the number of different keys with requests, for the subject of all requests and for `keys`; 0 for others.
        histograms: metric ("ttft", "duration") → start of the step → histogram. Rejected and lost requests are left
            out.
    """

    outcomes: list[OutcomeRow]
    endpoints: list[EndpointRow]
    gateways: list[GatewayRow]
    models: list[ModelRow]
    series: list[SeriesRow]
    model_series: list[ModelStepRow]
    keys: int
    histograms: dict[str, dict[datetime, Histogram]]


def select_usage(
    connection: Connection,
    *,
    start: datetime,
    end: datetime,
    step: timedelta,
    subject: str = ALL_REQUESTS,
    gateway: str | None = None,
    endpoint: str | None = None,
    top_models: int = 0,
    keys: Sequence[str] | None = None,
) -> Usage:
    """Returns the sums of requests that started in [start, end).

    Args:
        start, end: whole minutes with a timezone. Before `FINE_LEVELS_KEPT` ago, `start` must be a UTC midnight; for
            another subject than all requests, `start` must be a whole hour before `SUBJECT_MINUTES_KEPT` ago.
        step: the step of the series: whole minutes below an hour, whole hours below a day, or whole days. Steps are
            aligned to UTC midnights, so the first and the last may be cut by the window. The shorter the step,
            the more rows are read: minutes are for windows of hours, hours for windows of days.
        subject: the subject, in the form of app/db/rollup_tables.py; by default all requests.
        gateway: one gateway, or None for all of them.
        endpoint: the path of one endpoint, or None for all of them.
        top_models: the number of models with a series of their own, those with the most requests; none if 0, or if the
            subject is a model.
        keys: the ids of keys whose requests are counted together, in place of a subject; None for all.

    Raises:
        ValueError: `start`, `end` or `step` is not as above.
    """
    spans, coarse = compose_window(start, end, step), compose_window(start, end)
    if not spans:
        return Usage([], [], [], [], [], [], 0, {})
    chosen = Selection(subject, gateway, endpoint, None if keys is None else tuple(keys))
    outcomes, endpoints, gateways, series = _select_outcomes(connection, chosen, spans, step)
    models = _select_models(connection, chosen, coarse)
    named = [row.model for row in models if row.model][:top_models]
    return Usage(
        outcomes,
        endpoints,
        gateways,
        models,
        series,
        _select_model_series(connection, chosen, spans, step, named) if top_models and models else [],
        _select_key_count(connection, chosen, coarse) if subject == ALL_REQUESTS else 0,
        _select_histograms(connection, chosen, spans, step),
    )


def select_first_day(
    connection: Connection, subject: str = ALL_REQUESTS, keys: Sequence[str] | None = None
) -> date | None:
    """Returns the UTC day of the oldest request of the subject, or of these keys; None if there never was one."""
    chosen = Selection(subject, keys=None if keys is None else tuple(keys))
    folded = select(func.min(outcome_usage.c.start)).where(
        outcome_usage.c.level == "day", *chosen.subject_conditions(outcome_usage)
    )
    waiting = select(func.min(rollup_delta.c.minute)).where(*chosen.delta_conditions())
    # least() ignores NULLs.
    query = select(func.least(folded.scalar_subquery(), waiting.scalar_subquery()))
    oldest: datetime | None = connection.execute(query).scalar()
    return None if oldest is None else oldest.astimezone(UTC).date()


def _select_outcomes(
    connection: Connection, chosen: Selection, spans: Sequence[Span], step: timedelta
) -> tuple[list[OutcomeRow], list[EndpointRow], list[GatewayRow], list[SeriesRow]]:
    names = ["start", "endpoint", "gateway", "outcome", "error_type", *Sums._fields]
    rows = rows_in(outcome_usage, chosen, spans, names)
    bucket = func.date_bin(literal(step), rows.c.start, literal(_EPOCH)).label("bucket")
    # One pass over the rows computes all groupings; columns that a row is not grouped by are NULL.
    sets = func.grouping_sets(
        tuple_(rows.c.outcome, rows.c.error_type),
        tuple_(rows.c.endpoint),
        tuple_(rows.c.gateway),
        tuple_(rows.c.outcome, bucket),
    )
    columns = rows.c.outcome, rows.c.error_type, rows.c.endpoint, rows.c.gateway, bucket
    query = select(*columns, *_sums(rows)).group_by(sets).order_by(bucket)
    outcomes, endpoints, gateways, series = [], [], [], []
    for outcome, error_type, endpoint, gateway, begin, *sums in connection.execute(query):
        if endpoint is not None:
            endpoints.append(EndpointRow(endpoint, Sums(*sums)))
        elif gateway is not None:
            gateways.append(GatewayRow(gateway, Sums(*sums)))
        elif begin is not None:
            series.append(SeriesRow(begin, outcome, Sums(*sums)))
        else:
            outcomes.append(OutcomeRow(outcome, error_type, Sums(*sums)))
    endpoints.sort(key=lambda row: (-row.sums.requests, row.endpoint))
    gateways.sort(key=lambda row: (-row.sums.requests, row.gateway))
    return outcomes, endpoints, gateways, series


def _select_models(connection: Connection, chosen: Selection, spans: Sequence[Span]) -> list[ModelRow]:
    if chosen.is_model():
        return []
    rows = rows_in(model_usage, chosen, spans, ["model", *Sums._fields])
    query = select(rows.c.model, *_sums(rows)).group_by(rows.c.model)
    models = [ModelRow(row[0], Sums(*row[1:])) for row in with_pauses(connection.execute(query))]
    return sorted(models, key=lambda row: (-row.sums.requests, row.model))


def _select_model_series(
    connection: Connection, chosen: Selection, spans: Sequence[Span], step: timedelta, named: Sequence[str]
) -> list[ModelStepRow]:
    rows = rows_in(model_usage, chosen, spans, ["start", "model", *Sums._fields])
    # The database sums up the others, so that the number of rows does not depend on the number of models.
    model = case((rows.c.model.in_(["", *named]), rows.c.model)).label("model")
    bucket = func.date_bin(literal(step), rows.c.start, literal(_EPOCH)).label("bucket")
    query = select(bucket, model, *_sums(rows)).group_by(bucket, model).order_by(bucket)
    found = [ModelStepRow(row[0], row[1], Sums(*row[2:])) for row in with_pauses(connection.execute(query))]
    return sorted(found, key=lambda row: (row.start, row.model is None, -row.sums.requests, row.model))


def _select_key_count(connection: Connection, chosen: Selection, spans: Sequence[Span]) -> int:
    rows = rows_in(key_presence, chosen, spans, ["key_id"])
    return connection.execute(select(func.count(rows.c.key_id.distinct()))).scalar_one()


def _select_histograms(
    connection: Connection, chosen: Selection, spans: Sequence[Span], step: timedelta
) -> dict[str, dict[datetime, Histogram]]:
    rows = histogram_rows_in(chosen, spans)
    begin = func.date_bin(literal(step), rows.c.start, literal(_EPOCH)).label("begin")
    binned = select(rows.c.metric, begin, rows.c.buckets, rows.c.counts).subquery()
    # Arrays unnested side by side in the column list take a third of the time of a join with unnest().
    pair = func.unnest(binned.c.buckets).label("bucket"), func.unnest(binned.c.counts).label("count")
    pairs = select(binned.c.metric, binned.c.begin, *pair).subquery()
    key = pairs.c.metric, pairs.c.begin, pairs.c.bucket
    counts = select(*key, cast(func.sum(pairs.c.count), BigInteger).label("count")).group_by(*key).subquery()
    # An array for each step is read ten times as fast as a row for each bucket.
    grouped = counts.c.metric, counts.c.begin
    arrays = func.array_agg(counts.c.bucket), func.array_agg(counts.c.count)
    histograms: dict[str, dict[datetime, Histogram]] = defaultdict(dict)
    found = connection.execute(select(*grouped, *arrays).group_by(*grouped))
    for metric, start, buckets, numbers in with_pauses(found, slice_items=_ARRAYS):
        histograms[metric][start] = dict(zip(buckets, numbers, strict=True))
    return dict(histograms)


def _sums(rows: Subquery) -> list[ColumnElement[Any]]:
    # PostgreSQL's sum of bigint is numeric, which the driver would return as a Decimal.
    return [cast(func.sum(rows.c[name]), outcome_usage.c[name].type) for name in Sums._fields]
