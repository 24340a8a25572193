"""Compares recorded with billed figures, for each model on each day, and finds the differences.

Nothing is read here, so the same sides give the same result in every worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from app.db.bills import BillDayRow, BillLineRow
from app.db.sums import Sums
from app.services.bill.compared import Compared, DayState
from app.services.pricing import Price, compute_cost
from app.services.reports import normalize_usd

Place = tuple[date, str]  # a day and a model

# Shares of prompt tokens count as equal if they differ by no more. Output costs up to five times as much, so a greater
# difference would look like a drift of half a percent.
_SAME_SHARE = 0.001


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Both sides of a reconciliation.

    Attributes:
        days: consecutive days, with or without requests.
        states: day → how complete the bill is.
        recorded: the gateway's records.
        unfinished: requests that were lost or cut.
        bill_days: the fetched days.
        bill_lines: the billed figures, by the names that the records have for the models.
    """

    days: Sequence[date]
    states: Mapping[date, DayState]
    recorded: Mapping[Place, Sums]
    unfinished: Mapping[Place, int]
    bill_days: Mapping[date, BillDayRow]
    bill_lines: Mapping[Place, BillLineRow]

    def has_tokens(self, day: date) -> bool:
        """Returns whether the billed tokens of a day are complete."""
        return self.states[day] in ("settled", "costs_open")

    def has_costs(self, day: date) -> bool:
        """Returns whether the billed costs of a day are complete."""
        return self.states[day] == "settled" and self.bill_days[day].has_costs


def compare_lines(sides: Sides) -> list[Compared]:
    """Returns every model on every day on which one of the sides has it, by day and model."""
    places = sorted({*sides.recorded, *sides.bill_lines})
    return [_compare_line(sides, place) for place in places]


def _compare_line(sides: Sides, place: Place) -> Compared:
    day, model = place
    sums = sides.recorded.get(place, Sums())
    line = sides.bill_lines.get(place)
    has_tokens, has_costs = sides.has_tokens(day), sides.has_costs(day)
    cost = sums.cost_exact + sums.cost_estimated
    expected, basis = _expect(sums, line) if has_costs and line is not None else (None, None)
    billed_cost = (Decimal(0) if line is None else line.cost_usd or Decimal(0)) if has_costs else None
    return _complete(
        Compared(
            day=day,
            model=model,
            state=sides.states[day],
            requests=sums.requests,
            unfinished_requests=sides.unfinished.get(place, 0),
            unpriced_requests=sums.unpriced_requests,
            recorded_prompt_tokens=sums.prompt_tokens,
            recorded_completion_tokens=sums.completion_tokens,
            billed_prompt_tokens=(0 if line is None else line.prompt_tokens) if has_tokens else None,
            billed_completion_tokens=(0 if line is None else line.completion_tokens) if has_tokens else None,
            recorded_cost=cost,
            estimated_cost=sums.cost_estimated,
            compared_cost=cost if has_costs else None,
            billed_cost=billed_cost,
            expected_cost=expected,
            priced_cost=None if expected is None else billed_cost,
            expected_from=basis,
        )
    )


def _expect(sums: Sums, line: BillLineRow) -> tuple[Decimal | None, Literal["list", "records"] | None]:
    """Returns the cost of the billed tokens at the gateway's price, and which of the two prices that is.

    The price listed when the bill was fetched counts if it gives the recorded cost to the last digit. Otherwise it has
    changed since, or several prices were charged; then the recorded cost per token counts, but only if both sides have
    the same share of prompt tokens, because these cost less.
    """
    recorded = sums.cost_exact + sums.cost_estimated
    tokens = sums.prompt_tokens + sums.completion_tokens
    billed = line.prompt_tokens + line.completion_tokens
    if not tokens or not billed or not recorded:
        return None, None
    if line.prompt_price is not None:
        price = Price(line.prompt_price, line.completion_price, line.cached_price, "", None)
        listed = compute_cost(price, sums.prompt_tokens, sums.cached_tokens, sums.completion_tokens)
        if listed == recorded:
            cached = Decimal(sums.cached_tokens * line.prompt_tokens) / (sums.prompt_tokens or 1)
            uncached_usd = (line.prompt_tokens - cached) * price.prompt
            cached_usd = cached * (price.prompt if price.input_cache_read is None else price.input_cache_read)
            completion_usd = line.completion_tokens * (price.completion or Decimal(0))
            return normalize_usd(uncached_usd + cached_usd + completion_usd), "list"
    if abs(sums.prompt_tokens / tokens - line.prompt_tokens / billed) > _SAME_SHARE:
        return None, None
    return normalize_usd(recorded * billed / tokens), "records"


def compare_days(sides: Sides, lines: Sequence[Compared]) -> list[Compared]:
    """Returns every day. If the bill distinguishes this gateway's requests, only their tokens count as billed, and
    costs are compared only if there are no other requests.
    """
    by_day: dict[date | None, list[Compared]] = defaultdict(list)
    for line in lines:
        by_day[line.day].append(line)
    days = []
    for day in sides.days:
        merged = merge(by_day.get(day, []), day=day, state=sides.states[day])
        row = sides.bill_days.get(day)
        if sides.has_tokens(day):
            merged.billed_prompt_tokens = merged.billed_prompt_tokens or 0
            merged.billed_completion_tokens = merged.billed_completion_tokens or 0
            if sides.has_costs(day) and merged.billed_cost is None:
                merged.billed_cost, merged.compared_cost = Decimal(0), merged.recorded_cost
            if count_others(row, merged):
                merged.compared_cost = merged.billed_cost = None
            if row is not None and row.tag is not None:
                merged.billed_prompt_tokens = row.tag_prompt_tokens or 0
                merged.billed_completion_tokens = row.tag_completion_tokens or 0
        days.append(_complete(merged))
    return days


def count_others(row: BillDayRow | None, account: Compared) -> int:
    """Returns the tokens of a day that do not have the gateway's name; 0 if the bill does not distinguish them.

    Args:
        row: the day of the bill.
        account: the sum of its lines.
    """
    if row is None or row.tag is None:
        return 0
    return max((account.billed_tokens or 0) - (row.tag_prompt_tokens or 0) - (row.tag_completion_tokens or 0), 0)


def compare_models(lines: Iterable[Compared]) -> list[Compared]:
    """Returns every model over its settled days, the most tokens first."""
    by_model: dict[str | None, list[Compared]] = defaultdict(list)
    for line in lines:
        if line.billed_tokens is not None:
            by_model[line.model].append(line)
    models = [merge(parts, model=model) for model, parts in by_model.items()]
    return sorted(models, key=lambda row: (-max(row.recorded_tokens, row.billed_tokens or 0), row.model or ""))


def merge(
    parts: Sequence[Compared], *, day: date | None = None, model: str | None = None, state: DayState | None = None
) -> Compared:
    """Returns the sum of several rows; a figure that none of them has is None."""
    merged = Compared(day=day, model=model, state=state)
    for name in _SUMS:
        setattr(merged, name, sum((getattr(part, name) for part in parts), getattr(merged, name)))
    for name in _KNOWN:
        known = [value for part in parts if (value := getattr(part, name)) is not None]
        setattr(merged, name, sum(known) if known else None)
    return _complete(merged)


_SUMS = (
    "requests",
    "unfinished_requests",
    "unpriced_requests",
    "recorded_prompt_tokens",
    "recorded_completion_tokens",
    "recorded_cost",
    "estimated_cost",
)
_KNOWN = (
    "billed_prompt_tokens",
    "billed_completion_tokens",
    "compared_cost",
    "billed_cost",
    "expected_cost",
    "priced_cost",
)


def _complete(row: Compared) -> Compared:
    """Adds the figures that follow from the sums: differences, captures and the drift of the price."""
    billed = row.billed_tokens
    row.token_difference = None if billed is None else billed - row.recorded_tokens
    row.token_capture = _divide(row.recorded_tokens, billed)
    row.recorded_cost, row.estimated_cost = normalize_usd(row.recorded_cost), normalize_usd(row.estimated_cost)
    row.cost_difference = row.cost_capture = None
    if row.billed_cost is not None and row.compared_cost is not None:
        row.billed_cost, row.compared_cost = normalize_usd(row.billed_cost), normalize_usd(row.compared_cost)
        row.cost_difference = normalize_usd(row.billed_cost - row.compared_cost)
        row.cost_capture = _divide(row.compared_cost, row.billed_cost)
    if row.expected_cost and row.priced_cost is not None:
        row.price_drift = round(float(row.priced_cost / row.expected_cost) - 1, 6)
    return row


def _divide(part: Decimal | int, whole: Decimal | int | None) -> float | None:
    return None if not whole else round(float(Decimal(part) / Decimal(whole)), 6)
