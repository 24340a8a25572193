"""The rows of a window: those of a table of sums, and those of the deltas that are not folded into it yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Subquery, Table, Text, cast, func, literal, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY, array

from app.db.rollup_tables import ALL_REQUESTS, KEY_PREFIX, MODEL_PREFIX, latency_usage, rollup_delta
from app.db.windows import Span

_BUCKETS = {"ttft": rollup_delta.c.ttft_buckets, "duration": rollup_delta.c.duration_buckets}


class Selection(NamedTuple):
    """The selected requests, by subject, gateway and endpoint; None restricts nothing.

    `keys` are ids of keys whose requests are counted together; then the subject is that of all requests.
    """

    subject: str
    gateway: str | None = None
    endpoint: str | None = None
    keys: tuple[str, ...] | None = None

    def is_model(self) -> bool:
        """Returns whether the subject is a model."""
        return self.subject.startswith(MODEL_PREFIX)

    def conditions(self, table: Table) -> list[ColumnElement[bool]]:
        """Returns the conditions for the gateway's and the endpoint's rows in a table of sums or the deltas."""
        wanted = {"gateway": self.gateway, "endpoint": self.endpoint}
        return [table.c[name] == value for name, value in wanted.items() if value is not None]

    def subject_conditions(self, table: Table) -> list[ColumnElement[bool]]:
        """Returns the conditions for the subject's rows in a table of sums; one without subjects has rows of keys."""
        if "subject" not in table.c:
            return [] if self.keys is None else [table.c.key_id == _any(self.keys)]
        if self.keys is None:
            return [table.c.subject == self.subject]
        return [table.c.subject == _any(KEY_PREFIX + key for key in self.keys)]

    def delta_conditions(self) -> list[ColumnElement[bool]]:
        """Returns the conditions for the subject's deltas."""
        if self.keys is not None:
            return [rollup_delta.c.key_id == _any(self.keys)]
        if self.subject == ALL_REQUESTS:
            return []
        if self.is_model():
            return [rollup_delta.c.model == self.subject.removeprefix(MODEL_PREFIX)]
        return [rollup_delta.c.key_id == self.subject.removeprefix(KEY_PREFIX)]


def _any(texts: Iterable[str]) -> ColumnElement[Any]:
    return func.any(literal(list(texts), ARRAY(Text)))


def rows_in(table: Table, chosen: Selection, spans: Sequence[Span], names: Sequence[str]) -> Subquery:
    """Returns the named columns of all rows in the spans; each span is one primary key range of one partition.

    Args:
        table: a table of sums.
        chosen: the selected requests.
        spans: consecutive spans, at least one.
        names: columns of the table. The `start` of a delta is its minute, and its `subject` that of its key.
    """
    folded = [select(*[table.c[name] for name in names]).where(*_span(table, chosen, span)) for span in spans]
    others = {"start": rollup_delta.c.minute, "subject": (literal(KEY_PREFIX) + rollup_delta.c.key_id).collate("C")}
    columns = [others[name] if name in others else rollup_delta.c[name] for name in names]
    return union_all(*folded, _deltas(chosen, spans, *columns)).subquery()


def histogram_rows_in(chosen: Selection, spans: Sequence[Span]) -> Subquery:
    """Returns the histograms in the spans: columns start, metric, buckets and counts, several rows of each start."""
    columns = [latency_usage.c[name] for name in ("start", "metric", "buckets", "counts")]
    folded = [select(*columns).where(*_span(latency_usage, chosen, span)) for span in spans]
    waiting = [
        _deltas(chosen, spans, rollup_delta.c.minute, literal(metric), buckets, _ones(buckets))
        for metric, buckets in _BUCKETS.items()
    ]
    # A union takes its column names from the first query.
    return union_all(*folded, *waiting).subquery()


def _ones(buckets: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.array_fill(cast(1, BigInteger), array([func.cardinality(buckets)]))


def _span(table: Table, chosen: Selection, span: Span) -> list[ColumnElement[bool]]:
    columns = table.c
    bounds = [columns.level == span.level, columns.start >= span.start, columns.start < span.end]
    return [*chosen.subject_conditions(table), *bounds, *chosen.conditions(table)]


def _deltas(chosen: Selection, spans: Sequence[Span], *columns: ColumnElement[object]) -> Any:
    minute = rollup_delta.c.minute
    window = [minute >= spans[0].start, minute < spans[-1].end]
    return select(*columns).where(*window, *chosen.delta_conditions(), *chosen.conditions(rollup_delta))
