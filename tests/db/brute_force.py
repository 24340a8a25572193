"""Sums over rows in Python, to compare with the ones in the database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from app.db.histogram import histogram_quantiles_ms
from app.db.rollups import Usage
from app.db.sums import Sums, sum_up
from tests.db.rows import Row

_QUANTILES = [0.0, 0.5, 0.95, 0.99, 1.0]


class Wanted(NamedTuple):
    """The choice of rows to sum, as arguments of `select_usage`."""

    start: datetime
    end: datetime
    step: timedelta
    subject: str = ""
    gateway: str | None = None
    endpoint: str | None = None

    def choose(self, rows: Iterable[Row]) -> list[Row]:
        """Returns the chosen rows."""
        return [row for row in rows if self._is_chosen(row)]

    def _is_chosen(self, row: Row) -> bool:
        subjects = {"", f"key:{row['key_id']}", f"model:{row['model_served']}"}
        others = [(self.gateway, row["gateway"]), (self.endpoint, row["endpoint"])]
        in_window = self.start <= row["started_at"] < self.end
        return in_window and self.subject in subjects and all(asked in {None, had} for asked, had in others)


def check_usage(usage: Usage, chosen: Sequence[Row], wanted: Wanted) -> None:
    """Fails unless the sums equal those over the rows."""
    by_outcome, by_model, by_step, by_endpoint, by_gateway = (defaultdict[Any, list[Sums]](list) for _ in range(5))
    for row in chosen:
        by_outcome[row["outcome"], row["error_type"] or ""].append(sums_of(row))
        by_model[(model_of(row),)].append(sums_of(row))
        by_endpoint[(row["endpoint"],)].append(sums_of(row))
        by_gateway[(row["gateway"] or "",)].append(sums_of(row))
        by_step[_floor(row["started_at"], wanted.step), row["outcome"]].append(sums_of(row))
    assert {row[:2]: rounded(row.sums) for row in usage.outcomes} == totals(by_outcome)
    assert {row[:1]: rounded(row.sums) for row in usage.endpoints} == totals(by_endpoint)
    assert {row[:1]: rounded(row.sums) for row in usage.gateways} == totals(by_gateway)
    if not wanted.subject.startswith("model:"):
        assert {row[:1]: rounded(row.sums) for row in usage.models} == totals(by_model)
    assert {row[:2]: rounded(row.sums) for row in usage.series} == totals(by_step)
    assert [row.start for row in usage.series] == sorted(row.start for row in usage.series)
    for rows in (usage.models, usage.endpoints, usage.gateways):
        numbers = [row.sums.requests for row in rows]
        assert numbers == sorted(numbers, reverse=True)
    assert usage.keys == (0 if wanted.subject else len({row["key_id"] for row in chosen}))
    for metric in ("ttft", "duration"):
        _check_histograms(usage.histograms.get(metric, {}), chosen, f"{metric}_ms", wanted.step)


def _check_histograms(
    histograms: dict[datetime, dict[int, int]], chosen: Sequence[Row], column: str, step: timedelta
) -> None:
    values = defaultdict(list)
    for row in chosen:
        if row["outcome"] not in {"rejected", "lost"} and row[column] is not None:
            values[_floor(row["started_at"], step)].append(row[column])
    assert histograms.keys() == values.keys()
    for start, counts in histograms.items():
        ordered = sorted(values[start])
        assert sum(counts.values()) == len(ordered)
        for quantile, value in zip(_QUANTILES, histogram_quantiles_ms(counts, _QUANTILES), strict=True):
            exact = ordered[int(quantile * (len(ordered) - 1))]
            # Times below a hundredth of a millisecond are counted as a hundredth.
            assert value == pytest.approx(max(exact, 0.01), rel=0.05)


def sums_of(row: Row) -> Sums:
    """Returns the sums of one row."""
    speed, tokens, cost = row["tokens_per_second"], row["completion_tokens"], row["cost_usd"]
    has_speed = speed is not None and speed >= 0.001 and bool(tokens)
    return Sums(
        requests=1,
        ok_requests=int(row["outcome"] == "ok"),
        prompt_tokens=row["prompt_tokens"] or 0,
        completion_tokens=tokens or 0,
        cached_tokens=row["cached_tokens"] or 0,
        reasoning_tokens=row["reasoning_tokens"] or 0,
        cost_exact=cost if row["cost_kind"] == "exact" else Decimal(0),
        cost_estimated=cost if row["cost_kind"] == "estimated" else Decimal(0),
        unpriced_requests=int(row["cost_kind"] == "unknown" and row["outcome"] != "rejected"),
        speed_tokens=tokens if has_speed else 0,
        speed_ms=tokens * 1000 / speed if has_speed else 0.0,
    )


def key_days(rows: Iterable[Row]) -> dict[Any, Sums]:
    """Returns the sums by key, UTC day, gateway and model."""
    by_key = defaultdict(list)
    for row in rows:
        by_key[row["key_id"], row["started_at"].date(), row["gateway"] or "", model_of(row)].append(sums_of(row))
    return totals(by_key)


def outcomes_of(rows: Iterable[Row]) -> dict[str, int]:
    """Returns the number of rows by outcome."""
    return Counter(row["outcome"] for row in rows)


def model_of(row: Row) -> str:
    """Returns the name under which the row's model is counted."""
    return str(row["model_served"] or "")


def totals(groups: dict[Any, list[Sums]]) -> dict[Any, Sums]:
    """Returns the total of each group."""
    return {key: rounded(sum_up(sums)) for key, sums in groups.items()}


def rounded(sums: Sums) -> Sums:
    """Returns the sums without the last digits of the sum of doubles, which depend on the order of addition."""
    return sums._replace(speed_ms=float(f"{sums.speed_ms:.9g}"))


def _floor(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - datetime(2000, 1, 1, tzinfo=UTC)) % step
