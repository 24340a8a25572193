"""Differences beyond the band, and their possible causes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from app.services.bill.compared import CAUSES, Compared, Finding, FindingKind
from app.services.reports import normalize_usd

# A ratio this close to two counts as a factor of two.
_DOUBLE_TOLERANCE = 0.02


class Band(NamedTuple):
    """The captures that are no finding, as shares, both included."""

    least: float
    most: float

    def holds(self, capture: float | None) -> bool:
        """Returns whether a capture lies in the band; an unknown one counts as inside."""
        return capture is None or self.least <= capture <= self.most


class _Difference(NamedTuple):
    """A finding on one day."""

    kind: FindingKind
    row: Compared
    tokens: int
    cost: Decimal | None
    causes: tuple[str, ...]


def find_differences(days: Sequence[Compared], lines: Sequence[Compared], band: Band) -> list[Finding]:
    """Returns the differences as findings, the most tokens first; equal ones of several days form one finding.

    Args:
        days: every day; unsettled days have no billed tokens and are left out.
        lines: every model on every day. The billed side may include tokens of others with the same account.
        band: the captures that are no finding.
    """
    by_day: dict[object, list[Compared]] = {}
    for line in lines:
        by_day.setdefault(line.day, []).append(line)
    groups: dict[tuple[str, str | None, tuple[str, ...]], list[_Difference]] = {}
    for day in days:
        if day.billed_tokens is not None:
            for found in _find_on(day, by_day.get(day.day, []), band):
                groups.setdefault((found.kind, found.row.model, found.causes), []).append(found)
    findings = [_make_finding(group) for group in groups.values()]
    return sorted(findings, key=lambda each: (-abs(each.token_difference), each.kind, each.model or "", each.days))


def _find_on(day: Compared, lines: Sequence[Compared], band: Band) -> Iterator[_Difference]:
    billed = sum(line.billed_tokens or 0 for line in lines)
    if day.recorded_tokens and not billed:
        yield _make("day_not_billed", day, ("bill_incomplete", "not_billed"))
        return
    if day.billed_tokens and not day.recorded_tokens:
        yield _make("day_not_recorded", day, ("other_clients", "records_missing"))
        return
    # If the bill distinguishes this gateway's requests and they match, other use of the account is not ours.
    is_shared = billed > (day.billed_tokens or 0) and band.holds(day.token_capture)
    for line in lines:
        yield from _find_in(line, band, is_shared=is_shared)


def _find_in(line: Compared, band: Band, *, is_shared: bool) -> Iterator[_Difference]:
    recorded, billed = line.recorded_tokens, line.billed_tokens or 0
    if not recorded and (billed or line.billed_cost):
        if not is_shared:
            yield _make("model_not_recorded", line, ("other_clients", "records_missing"))
    elif recorded and not billed:
        yield _make("model_not_billed", line, ("bill_incomplete", "not_billed"))
    elif not band.holds(line.token_capture) and not (is_shared and billed > recorded):
        yield _make("tokens_differ", line, _explain(recorded, billed, line.unfinished_requests))
    if line.price_drift is not None and not band.holds(1 + line.price_drift):
        cost = (line.priced_cost or Decimal(0)) - (line.expected_cost or Decimal(0))
        yield _Difference("price_differs", line, 0, cost, ("price_changed", "other_tier"))


def _explain(recorded: int, billed: int, unfinished: int) -> tuple[str, ...]:
    causes = ["unfinished_requests"] if unfinished else []
    if billed < recorded:
        return (*causes, "not_billed", "bill_incomplete")
    if abs(billed / recorded - 2) <= _DOUBLE_TOLERANCE:
        causes.insert(0, "counted_twice")
    return (*causes, "other_clients", "failed_attempts", "records_missing")


def _make(kind: FindingKind, row: Compared, causes: tuple[str, ...]) -> _Difference:
    return _Difference(kind, row, row.token_difference or 0, row.cost_difference, causes)


def _make_finding(group: Sequence[_Difference]) -> Finding:
    first = group[0]
    costs = [each.cost for each in group if each.cost is not None]
    return Finding(
        kind=first.kind,
        model=first.row.model,
        days=[each.row.day for each in group if each.row.day is not None],
        token_difference=sum(each.tokens for each in group),
        cost_difference=normalize_usd(sum(costs, Decimal(0))) if costs else None,
        causes=list(first.causes),
        meanings=_get_meanings(CAUSES, first.causes),
    )


def _get_meanings(texts: Mapping[str, str], names: Sequence[str]) -> list[str]:
    return [texts[name] for name in names]
