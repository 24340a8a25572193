"""Sums over requests, in the form that every table of sums has."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple


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


def sum_up(sums: Iterable[Sums]) -> Sums:
    """Returns the total of several sums; zeros for none."""
    columns = zip(Sums(), *sums, strict=True)
    return Sums(*(sum(column) for column in columns))
