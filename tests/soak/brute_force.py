"""Recomputes the statistics row by row in Python, and compares them with those of the gateway."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.soak.audit import Row
from tests.support.chat import request
from tests.support.gateway import Gateway

_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")


def check_statistics(gateway: Gateway, rows: Sequence[Row]) -> None:
    """Fails unless the statistics of the last hour, which must contain all `rows`, equal the sums over these."""
    for name in ("all", "fireworks"):
        seen = request("GET", f"{gateway.url}/api/catalog/gateway/{name}/stats?time_range=1h", headers=gateway.headers)
        assert seen.status == 200, seen.body
        data = json.loads(seen.body, parse_float=Decimal)["data"]
        _check(data, [row for row in rows if name == "all" or row["gateway"] == name])


def _check(data: Mapping[str, Any], rows: Sequence[Row]) -> None:
    sums = _sums(rows)
    assert {name: data[name] for name in sums if name != "requests"} == _without(sums, "requests")
    assert data["total_requests"] == len(rows)
    assert data["successful_requests"] == sum(row["outcome"] == "ok" for row in rows)
    assert data["failed_requests"] == sum(row["outcome"] != "ok" for row in rows)
    assert data["unique_users"] == len({row["key_id"] for row in rows})
    assert _nonzero(data["outcomes"]) == Counter(row["outcome"] for row in rows)
    assert data["errors"] == Counter(row["error_type"] for row in rows if row["error_type"])
    _check_models(data, rows)
    _check_series(data, rows)
    for metric in ("ttft_ms", "duration_ms"):
        _check_percentiles(data[metric], [row[metric] for row in rows if row["outcome"] not in {"rejected", "lost"}])


def _check_models(data: Mapping[str, Any], rows: Sequence[Row]) -> None:
    by_model = _grouped(rows, _model)
    shown = {entry["model"]: entry for entry in data["models"]}
    assert len(shown) == len(data["models"]) and set(shown) == set(by_model)
    assert data["unique_models"] == len(set(by_model) - {None})
    for model, group in by_model.items():
        sums = _sums(group)
        assert {name: shown[model][name] for name in sums} == sums


def _check_series(data: Mapping[str, Any], rows: Sequence[Row]) -> None:
    by_minute = _grouped(rows, lambda row: row["started_at"].replace(second=0, microsecond=0))
    shown = {datetime.fromisoformat(step["start"]): step for step in data["series"] if step["requests"]}
    assert set(shown) == set(by_minute)
    for start, group in by_minute.items():
        step, sums = shown[start], _sums(group)
        assert (step["requests"], step["tokens"], step["cost"]) == (
            len(group),
            sums["total_tokens"],
            sums["total_cost"],
        )
        assert step["errors"] == sum(row["outcome"] != "ok" for row in group)


def _check_percentiles(shown: Mapping[str, Decimal | None], times_ms: Iterable[float | None]) -> None:
    values = sorted(value for value in times_ms if value is not None)
    for name, quantile in {"p50": 0.50, "p95": 0.95, "p99": 0.99}.items():
        told = shown[name]
        if not values:
            assert told is None
            continue
        # Times below 0.01 ms count as 0.01 ms; the response has five digits.
        exact = max(values[int(quantile * (len(values) - 1))], 0.01)
        assert told is not None and float(told) == pytest.approx(exact, rel=0.0501)


def _sums(rows: Sequence[Row]) -> dict[str, Any]:
    tokens = {name: sum(row[name] or 0 for row in rows) for name in _TOKENS}
    total = tokens["prompt_tokens"] + tokens["completion_tokens"]
    exact, estimated = _cost(rows, "exact"), _cost(rows, "estimated")
    unpriced = sum(row["cost_kind"] == "unknown" and row["outcome"] != "rejected" for row in rows)
    told, priced = total or not rows, exact or estimated or not unpriced
    return {
        "requests": len(rows),
        "total_tokens": total if told else None,
        **{name: number if told else None for name, number in tokens.items()},
        "total_cost": exact if priced else None,
        "estimated_cost": estimated if priced else None,
        "unpriced_requests": unpriced,
    }


def _cost(rows: Sequence[Row], kind: str) -> Decimal:
    return sum((row["cost_usd"] for row in rows if row["cost_kind"] == kind), Decimal(0))


def _model(row: Row) -> str | None:
    """Returns the model for which a row counts; None if only the client named it."""
    return None if row["model_served"] is None else str(row["model_served"])


def _grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if number}


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
