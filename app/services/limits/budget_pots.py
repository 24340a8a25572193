"""One worker's part of a budget in memory: the amount drawn in each period, and how much of it is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from app.db.leases import LeaseAnswer, PeriodState, compute_period_id, compute_period_start
from app.services.limits.amounts import Unit, parse_amount
from app.services.limits.periods import Period, compute_reset, get_period
from app.services.limits.policy import Budget, Subject
from app.services.limits.pots import UNBOUNDED, Count, Lot, Pot

# Workers keep nothing in reserve while less is left than 1/_NEAR_SHARE of the amount plus _NEAR_REQUESTS largest needs.
_NEAR_SHARE = 64
_NEAR_REQUESTS = 8
# How long no worker keeps anything in reserve after a draw found too little, in seconds.
RECALL_S = 5.0
# A worker draws ahead for _AHEAD_S seconds at its recent rate, at least for _AHEAD_REQUESTS of its largest requests.
_AHEAD_S = 30.0
_AHEAD_REQUESTS = 4
# After this many seconds without use, a pot keeps nothing in reserve.
IDLE_S = 60.0
# How long before a period's end the next one is drawn from, in seconds; more than a tick.
_NEXT_S = 5.0
# How long a period is kept after its end, in seconds, because a clock may be set back.
_KEPT_S = 7_200.0
# Weight of the newest tick in the mean rate.
_RATE_WEIGHT = 0.3

_COUNTS = {"usd": Count.COST, "tokens": Count.TOKENS, "requests": Count.REQUESTS}


class BudgetPeriod:
    """One worker's part of one period of a budget: absolute totals since the period began.

    Attributes:
        lot: the amount that can be lent; its id is the period's id in the database.
        period: its window.
        drawn: the total that the worker has drawn.
        stated: the spent amount that was last reported to the database.
        is_uncertain: whether the last draw was not answered, so the `drawn` in the database may differ.
        total, granted, charged: the totals of all workers by the database's last answer; -1 before the first.
        oldest: the id of the oldest period of a rolling window with any use; its own id while that is not known.
    """

    __slots__ = ("charged", "drawn", "granted", "is_uncertain", "lot", "oldest", "period", "stated", "total")

    def __init__(self, budget_id: int, period: Period) -> None:
        self.oldest = compute_period_id(budget_id, period.start)
        self.lot = Lot(self.oldest)
        self.period = period
        self.drawn = self.stated = 0
        self.is_uncertain = False
        self.total = self.granted = self.charged = -1

    def set_drawn(self, drawn: int) -> None:
        """Sets the drawn total; the free amount changes by the difference."""
        self.lot.free += drawn - self.drawn
        self.drawn = drawn

    @property
    def id(self) -> int:
        """The period's id in the database."""
        return self.lot.id

    @property
    def free(self) -> int:
        """The amount that the worker has drawn and not used; negative where requests used more."""
        return self.lot.free

    def is_done(self) -> bool:
        """Returns whether neither requests nor the worker hold anything of it any more."""
        return not (self.is_uncertain or self.lot.free or self.drawn != self.lot.spent)

    @property
    def used(self) -> int:
        """The amount that requests have spent or hold at the moment."""
        return self.drawn - self.lot.free

    @property
    def spent(self) -> int:
        """The amount that ended requests have used."""
        return self.lot.spent


class BudgetPot(Pot):
    """A budget: the current period, and others that still hold something.

    Its share counts the amounts taken since the last tick.

    Args:
        subject: the subject of the budget.
        budget: the budget.
        clock: converts monotonic time to PostgreSQL's time, in seconds since 1970.
        wake: makes the drawing thread check this pot soon.

    Attributes:
        unit: the budget's unit.
        current: the current period.
        periods: all periods that this worker has used, by id.
        is_exact: whether so little is left that the worker keeps nothing in reserve.
        next: the following period, once it is near.
        has_ended: whether the budget itself has ended.
        recalled_until_s: the time until which the worker keeps nothing in reserve, because a draw found too little.
    """

    __slots__ = (
        "_clock",
        "_largest_before",
        "_rate",
        "_wake",
        "budget",
        "current",
        "has_ended",
        "is_exact",
        "next",
        "periods",
        "recalled_until_s",
        "unit",
    )

    def __init__(
        self, subject: Subject, budget: Budget, clock: Callable[[float], float], wake: Callable[[Pot], None]
    ) -> None:
        super().__init__(subject, _COUNTS[budget.unit], Lot())
        self.budget = budget
        self.unit: Unit = budget.unit
        self.periods: dict[int, BudgetPeriod] = {}
        self.is_exact = self.has_ended = False
        self.recalled_until_s = 0.0
        self.next: BudgetPeriod | None = None
        self._clock, self._wake = clock, wake
        self.share.largest = self._largest_before = 0
        self._rate = 0.0
        self.current = self.find_period(clock(time.monotonic()))
        self.turn()

    def find_period(self, at_s: float) -> BudgetPeriod:
        """Returns the period of an instant, in seconds since 1970, and adds it if it is new."""
        period = get_period(self.budget.window, self.budget.timezone, self.budget.first_day, at_s)
        found = BudgetPeriod(self.budget.id, period)
        return self.periods.setdefault(found.id, found)

    def turn(self) -> None:
        """Makes the period of this moment the current one. Call it when the clock or the budget window has changed."""
        now_s = time.monotonic()
        at_s = self._clock(now_s)
        self.current, self.next = self.find_period(at_s), None
        end = self.current.period.end
        self.share.lot = self.current.lot
        self.share.until_s = float("inf") if end is None else now_s + end.timestamp() - at_s
        self.refused_until_s = 0.0

    def look_ahead(self, now_s: float) -> None:
        """Prepares the next period if the current one ends soon, and forgets those that ended long ago."""
        if self.share.until_s - now_s < _NEXT_S and now_s - self.share.used_s < IDLE_S:
            self.next = self.find_period(self._clock(self.share.until_s))
        old_s = self._clock(now_s) - _KEPT_S
        for period in list(self.periods.values()):
            if period.is_done() and period.period.end is not None and period.period.end.timestamp() < old_s:
                del self.periods[period.id]

    def renew(self, now_s: float) -> None:
        self.turn()

    def end(self, has_ended: bool) -> None:
        """Notes whether the budget itself has ended; if so, requests reserve nothing of it."""
        self.has_ended = has_ended
        self.share.cap = 0 if has_ended else UNBOUNDED

    def note_taken(self, need: int) -> None:
        share = self.share
        if need > share.largest:
            share.largest = share.low = need
        if share.lot.free < share.low and not self.is_exact:
            self._wake(self)

    def note_settled(self, lot: Lot) -> None:
        self.wake_sleepers()
        self.share.is_watched = self.is_exact
        if self.is_exact or lot is not self.share.lot or lot.free < 0:
            self._wake(self)

    def expect(self, need: int) -> None:
        super().expect(need)
        self.share.largest = max(self.share.largest, need)

    def get_spare(self, now_s: float) -> int:
        """Returns the amount that the worker should have in reserve."""
        if self.is_exact or self.has_ended or now_s - self.share.used_s > IDLE_S:
            return 0
        return max(int(self._rate * _AHEAD_S), _AHEAD_REQUESTS * self.get_largest())

    def get_largest(self) -> int:
        """Returns the largest need of the last minute or two."""
        return max(self.share.largest, self._largest_before)

    def count_tick(self, seconds: float) -> None:
        """Updates the mean rate of use. Call it every few `seconds`."""
        self._rate += _RATE_WEIGHT * (self.share.taken / seconds - self._rate)
        self.share.taken = 0
        self.share.low = self.get_spare(time.monotonic()) // _AHEAD_REQUESTS

    def count_minute(self) -> None:
        """Forgets the largest need of the minute before the last one."""
        self.share.largest, self._largest_before = 0, self.share.largest

    def compute_reset(self, period: BudgetPeriod) -> datetime | None:
        """Returns when the use in the period, or in its rolling window, begins to count less; None if never."""
        oldest = compute_period_start(period.oldest)
        return compute_reset(self.budget.window, self.budget.timezone, period.period, oldest)

    def note_state(self, period: BudgetPeriod, state: LeaseAnswer | PeriodState) -> None:
        """Applies the database's state of a period: its amount, the granted total, and when a draw found too little."""
        total, granted, recalled_s = state.total, state.granted, state.recalled_s
        period.oldest = period.id if state.oldest is None else state.oldest
        period.total, period.granted = parse_amount(total, self.unit), parse_amount(granted, self.unit)
        if period is not self.current:
            return
        now_s = time.monotonic()
        if recalled_s is not None and recalled_s < RECALL_S:
            self.recalled_until_s = now_s + RECALL_S - recalled_s
        room = period.total - period.granted
        near = max(period.total, 0) // _NEAR_SHARE + _NEAR_REQUESTS * self.get_largest()
        self.is_exact = room < near or now_s < self.recalled_until_s
        self.share.is_watched = self.is_exact or bool(self.sleepers)
