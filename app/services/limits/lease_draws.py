"""Decides which leases of budgets a worker draws or gives back, and applies the answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from app.db import Database, time_limit
from app.db.leases import LeaseAnswer, LeaseDraw, draw_leases
from app.logs import log_event
from app.metrics import count_draw, count_overrun
from app.runtime import Runtime
from app.services.limits.amounts import format_amount, parse_amount
from app.services.limits.budget_pots import BudgetPeriod, BudgetPot
from app.services.limits.clock import DatabaseClock
from app.services.limits.pots import Pot
from app.services.limits.purse import Purses

# The time limit of a call, in seconds; a call usually takes milliseconds.
DRAW_TIME_LIMIT_S = 2.0
# The most pots per call.
MAX_POTS = 50
# A worker draws ahead for a pot only if it was used within this many seconds.
_ACTIVE_S = 5.0
# It draws when less than this share of the intended reserve is left.
_LOW_SHARE = 4

# Pot → the need of each request that waits for it.
Needs = Mapping[Pot, Sequence[int]]


class Planned(NamedTuple):
    """A draw of one period. Amounts are totals, as in LeaseDraw.

    Attributes:
        spent: the part of `used` that belongs to ended requests.
        held: the amount that is kept for certain; None for all that was drawn, up to `want`.
        excess: the use beyond the drawn amount.
    """

    pot: BudgetPot
    period: BudgetPeriod
    used: int
    spent: int
    held: int | None
    need: int
    firm: int
    want: int
    excess: int


class LeaseDraws:
    """The draws of one worker from budgets.

    Args:
        runtime: gives the database and the worker's id.
        clock: the estimate of PostgreSQL's clock, set by the answers.
        purses: amounts that requests hold jointly; put back before pots are checked.
    """

    def __init__(self, runtime: Runtime, clock: DatabaseClock, purses: Purses) -> None:
        self._runtime = runtime
        self._clock = clock
        self._purses = purses
        self._version = 0

    def plan(self, pots: Iterable[BudgetPot], needs: Needs, now_s: float) -> list[Planned]:
        """Returns the draws that are due now; no request may run before they are passed to `draw`."""
        self._purses.put_back()
        return [draw for pot in pots for draw in _plan_budget(pot, needs.get(pot, ()), now_s)]

    def draw(self, planned: Sequence[Planned]) -> None:
        """Draws, in one call.

        Raises:
            DatabaseError: the database is unavailable; the next draws of these periods settle the outcome.
        """
        if not planned:
            return
        self._version += 1
        draws = [_make_draw(draw, self._version) for draw in planned]
        for draw in planned:
            # From now on, the part that is given back is not lent.
            draw.period.set_drawn(min(draw.period.drawn, draw.want if draw.held is None else draw.held))
            draw.period.is_uncertain = True
        asked_s = time.monotonic()
        with time_limit(DRAW_TIME_LIMIT_S):
            answers = draw_leases(self._runtime.get(Database).lease_engine, self._runtime.worker_id, draws)
        self._purses.put_back()
        self._clock.note(answers.now, asked_s)
        by_id = {answer.period: answer for answer in answers.pots}
        for draw in planned:
            self._apply(draw, by_id.get(draw.period.id))

    def _apply(self, draw: Planned, answer: LeaseAnswer | None) -> None:
        pot, period = draw.pot, draw.period
        if answer is None:  # The budget no longer exists.
            pot.end(True)
            period.is_uncertain, period.stated = False, draw.spent
            return
        if not answer.applied:
            # The operator has released this worker's leases; the next draw is newer and renews them.
            self._version = max(self._version, answer.version)
            return
        period.is_uncertain = False
        period.set_drawn(parse_amount(answer.drawn, pot.unit))
        period.stated = draw.spent
        pot.end(answer.ended)
        if answer.charged is not None:
            # The database may not have this worker's own charges yet.
            period.charged = parse_amount(answer.charged, pot.unit) + period.spent
        pot.note_state(period, answer)
        if period is pot.current and answer.refused:
            pot.refusals += 1
        count_draw("budget", "refused" if answer.refused else "done")
        over = min(draw.excess, period.granted - max(period.total, 0))
        if over > 0 and not answer.ended:
            _report_overrun(pot, period, over)


def _plan_budget(pot: BudgetPot, waiting: Sequence[int], now_s: float) -> list[Planned]:
    planned = []
    for period in list(pot.periods.values()):
        needs = waiting if period is pot.current else ()
        spare = pot.get_spare(now_s) if period is pot.current or period is pot.next else 0
        has_too_much = period.free > 2 * spare
        has_too_little = period.free < (spare // _LOW_SHARE if now_s - pot.share.used_s < _ACTIVE_S else 0)
        # With this, other workers can tell used amounts from those that may come back.
        has_news = pot.is_exact and period.spent != period.stated
        if needs or period.is_uncertain or has_too_much or has_too_little or has_news:
            used, firm = period.used, period.used + sum(needs)
            need = used + min(needs, default=0)
            # Near the end of a budget, several workers would otherwise each keep an amount too small for a request.
            held = used if pot.is_exact else None
            planned.append(
                Planned(pot, period, used, period.spent, held, need, firm, firm + spare, max(used - period.drawn, 0))
            )
    return planned


def _make_draw(draw: Planned, version: int) -> LeaseDraw:
    pot, unit = draw.pot, draw.pot.unit
    start, end, since = draw.period.period
    return LeaseDraw(
        budget=pot.budget.id,
        period=draw.period.id,
        start_at=start.isoformat(),
        end_at=None if end is None else end.isoformat(),
        since=None if since is None else since.isoformat(),
        version=version,
        used=format_amount(draw.used, unit),
        spent=format_amount(draw.spent, unit),
        held=None if draw.held is None else format_amount(draw.held, unit),
        need=format_amount(draw.need, unit),
        firm=format_amount(draw.firm, unit),
        want=format_amount(draw.want, unit),
    )


def _report_overrun(pot: BudgetPot, period: BudgetPeriod, over: int) -> None:
    amount = format_amount(over, pot.unit)
    count_overrun(pot.unit, float(amount))
    log_event(
        "budget_overrun",
        level="warning",
        budget=pot.budget.id,
        subject=f"{pot.subject.kind} {pot.subject.name}",
        unit=pot.unit,
        by=amount,
        amount=format_amount(period.total, pot.unit),
    )
