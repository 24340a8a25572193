"""The recent service quality of each provider's models, from the sums by minute and the deltas not folded yet.

A record counts for the target that ended the request; earlier failures of targets are counted separately.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Double,
    Select,
    SmallInteger,
    Table,
    and_,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import array

from app.db.rollup_tables import MODEL_PREFIX, failed_attempt, latency_usage, outcome_usage, rollup_delta
from app.db.rollups import Histogram

_MEASURES = ("requests", "speed_tokens", "speed_ms")

# The outcome of failed attempts in the statement's rows; records never have it.
_GIVEN_UP = "given_up"


class OutcomeSums(NamedTuple):
    """Requests of one outcome, with the completion tokens of those whose speed is known, and the time that these took.

    The error type is '' if there was none.
    """

    gateway: str
    model: str
    outcome: str
    error_type: str
    requests: int
    speed_tokens: int
    speed_ms: float


class FirstTokenTimes(NamedTuple):
    """The times to the first token of a model's streams, as a histogram for app/db/histogram.py."""

    gateway: str
    model: str
    histogram: Histogram


class GivenUp(NamedTuple):
    """Requests that failed at a target and then ended at another; a caller may have invented the model's name."""

    gateway: str
    model: str
    requests: int


class RecentQuality(NamedTuple):
    """The sums of all models in a window."""

    outcomes: list[OutcomeSums]
    first_tokens: list[FirstTokenTimes]
    given_up: list[GivenUp]


def select_recent_quality(connection: Connection, window: timedelta) -> RecentQuality:
    """Returns the recent quality of each provider's models in the last `window`, with one statement.

    It reads only the rows of models, by their index on `start`, so its cost depends on the number of models in use.

    Args:
        connection: any connection; the clock is PostgreSQL's.
        window: whole minutes; the current minute counts as far as it has passed.
    """
    outcomes, first_tokens, given_up = [], [], []
    found = connection.execute(_make_statement(window))
    for gateway, model, outcome, error_type, requests, tokens, ms, buckets, counts in found:
        if outcome == _GIVEN_UP:
            given_up.append(GivenUp(gateway, model, requests))
        elif buckets is None:
            outcomes.append(OutcomeSums(gateway, model, outcome, error_type, requests, tokens, ms))
        else:
            first_tokens.append(FirstTokenTimes(gateway, model, dict(zip(buckets, counts, strict=True))))
    return RecentQuality(outcomes, first_tokens, given_up)


@cache
def _make_statement(window: timedelta) -> CompoundSelect[Any]:
    """Returns the statement, built only once: that takes 5 ms, in which no event would be relayed."""
    start = func.date_trunc("minute", func.now()) - literal(window)
    return union_all(_outcomes(start), _first_tokens(start), _given_up(start))


def _outcomes(start: ColumnElement[datetime]) -> Select[Any]:
    names = ("gateway", "outcome", "error_type", *_MEASURES)
    rows = union_all(
        select(_model_of(outcome_usage), *[outcome_usage.c[name] for name in names]).where(
            _is_recent(outcome_usage, start)
        ),
        select(rollup_delta.c.model, *[rollup_delta.c[name] for name in names]).where(_is_waiting(start)),
    ).subquery()
    key = rows.c.gateway, rows.c.model, rows.c.outcome, rows.c.error_type
    # PostgreSQL's sum of bigint is numeric, which the driver would return as a Decimal.
    sums = [cast(func.sum(rows.c[name]), outcome_usage.c[name].type) for name in _MEASURES]
    return select(*key, *sums, *_no_arrays()).group_by(*key)


def _first_tokens(start: ColumnElement[datetime]) -> Select[Any]:
    waiting = rollup_delta.c.ttft_buckets
    ones = func.array_fill(cast(1, BigInteger), array([func.cardinality(waiting)]))
    columns = latency_usage.c
    rows = union_all(
        select(columns.gateway, _model_of(latency_usage), columns.buckets, columns.counts).where(
            _is_recent(latency_usage, start), columns.metric == "ttft"
        ),
        select(rollup_delta.c.gateway, rollup_delta.c.model, waiting, ones).where(_is_waiting(start)),
    ).subquery()
    # Arrays unnested side by side in the column list take a third of the time of a join with unnest().
    pair = func.unnest(rows.c.buckets).label("bucket"), func.unnest(rows.c.counts).label("count")
    pairs = select(rows.c.gateway, rows.c.model, *pair).subquery()
    total = cast(func.sum(pairs.c.count), BigInteger).label("count")
    by_bucket = (
        select(pairs.c.gateway, pairs.c.model, pairs.c.bucket, total)
        .group_by(pairs.c.gateway, pairs.c.model, pairs.c.bucket)
        .subquery()
    )
    nothing = literal(""), literal(""), cast(0, BigInteger), cast(0, BigInteger), cast(0, Double)
    arrays = func.array_agg(by_bucket.c.bucket), func.array_agg(by_bucket.c.count)
    key = by_bucket.c.gateway, by_bucket.c.model
    return select(*key, *nothing, *arrays).group_by(*key)


def _given_up(start: ColumnElement[datetime]) -> Select[Any]:
    columns = failed_attempt.c
    key, words = (columns.gateway, columns.model), (literal(_GIVEN_UP), literal(""))
    sums = cast(func.sum(columns.requests), BigInteger), cast(0, BigInteger), cast(0, Double)
    return select(*key, *words, *sums, *_no_arrays()).where(columns.minute >= start).group_by(*key)


def _no_arrays() -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return cast(null(), ARRAY(SmallInteger)), cast(null(), ARRAY(BigInteger))


def _model_of(table: Table) -> ColumnElement[str]:
    return func.substr(table.c.subject, len(MODEL_PREFIX) + 1).label("model")


def _is_recent(table: Table, start: ColumnElement[datetime]) -> ColumnElement[bool]:
    columns = table.c
    # `subject <> ''` is the condition of the index.
    return and_(
        columns.level == "minute",
        columns.subject != "",
        columns.subject.startswith(MODEL_PREFIX, autoescape=True),
        columns.start >= start,
    )


def _is_waiting(start: ColumnElement[datetime]) -> ColumnElement[bool]:
    return and_(rollup_delta.c.model != "", rollup_delta.c.minute >= start)
