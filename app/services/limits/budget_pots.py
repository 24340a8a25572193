"""A budget, as one worker has it in memory: what it has drawn of each period, and how much of that is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from app.db.leases import LeaseAnswer, PeriodState, compute_period_id, compute_period_start
from app.services.limits.amounts import Unit, parse_amount
from app.services.limits.charge import Charge
from app.services.limits.periods import Period, compute_reset, get_period
from app.services.limits.policy import Budget, Subject
from app.services.limits.pots import Pot

# Where less than this share of the amount is left, or than so many of the largest requests, workers keep nothing.
_NEAR_SHARE = 64
_NEAR_REQUESTS = 8
# So long after a draw found too little, all workers keep nothing.
RECALL_S = 5.0
# A worker draws for so many seconds of its recent rate, but at least for so many of its largest requests.
_AHEAD_S = 30.0
_AHEAD_REQUESTS = 4
# A pot that nobody used for so long keeps nothing.
IDLE_S = 60.0
# The next period is drawn from when the current one ends within so many seconds, more than a tick.
_NEXT_S = 5.0
# A period that is over is kept so long, because a clock may be set back.
_KEPT_S = 7_200.0
# Weight of the newest tick in the mean rate.
_RATE_WEIGHT = 0.3


class BudgetPeriod:
    """One period of a budget, as one worker has it: absolute totals since the period began.

    Attributes:
        id: its id in the database.
        period: its window.
        drawn: what the worker has drawn, in all.
        used: what requests have spent of it or hold at the moment.
        reserved: what they hold at the moment.
        stated: what the database was last told that requests have spent.
        is_uncertain: whether the last draw was not answered, so that the database may have another `drawn`.
        total, granted, charged: of all workers, as the database last said; -1 while it has not.
        oldest: the id of the oldest period of a rolling window of which something is used; its own while that is not
            known.
    """

    __slots__ = (
        "charged",
        "drawn",
        "granted",
        "id",
        "is_uncertain",
        "oldest",
        "period",
        "reserved",
        "stated",
        "total",
        "used",
    )

    def __init__(self, budget_id: int, period: Period) -> None:
        self.id = self.oldest = compute_period_id(budget_id, period.start)
        self.period = period
        self.drawn = self.used = self.reserved = self.stated = 0
        self.is_uncertain = False
        self.total = self.granted = self.charged = -1

    def is_done(self) -> bool:
        """Returns whether nothing is held any more, neither by requests nor by the worker."""
        return not (self.reserved or self.is_uncertain or self.free)

    @property
    def spent(self) -> int:
        """What requests have used that have ended."""
        return self.used - self.reserved

    @property
    def free(self) -> int:
        """What the worker has drawn and not used; negative where requests used more."""
        return self.drawn - self.used


class BudgetPot(Pot):
    """A budget: the current period, and others that still hold something.

    Args:
        subject: whose budget it is.
        budget: the budget.
        clock: monotonic clock → PostgreSQL's time, in seconds since 1970.
        wake: makes the drawing thread look at this pot soon.

    Attributes:
        unit: what it counts.
        current: the period of now.
        periods: all that this worker has used, by id.
        is_exact: whether little is left, so that the worker keeps nothing.
        next: the period after it, once it is near.
        has_ended: whether the budget itself has been ended.
        recalled_until_s: until when the worker keeps nothing, because a draw found too little.
    """

    __slots__ = (
        "_clock",
        "_ends_s",
        "_largest",
        "_largest_before",
        "_low",
        "_rate",
        "_taken",
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
        super().__init__(subject)
        self.budget = budget
        self.unit: Unit = budget.unit
        self.periods: dict[int, BudgetPeriod] = {}
        self.is_exact = self.has_ended = False
        self.recalled_until_s = 0.0
        self.next: BudgetPeriod | None = None
        self._clock, self._wake = clock, wake
        self._taken = self._largest = self._largest_before = self._low = 0
        self._rate = 0.0
        self.current = self.find_period(clock(time.monotonic()))
        self.turn()

    def find_period(self, at_s: float) -> BudgetPeriod:
        """Returns the period of an instant, in seconds since 1970; one that is not known is added."""
        period = get_period(self.budget.window, self.budget.timezone, self.budget.first_day, at_s)
        found = BudgetPeriod(self.budget.id, period)
        return self.periods.setdefault(found.id, found)

    def turn(self) -> None:
        """Makes the period of now the current one. Call it when the clock or the budget's window has changed."""
        now_s = time.monotonic()
        at_s = self._clock(now_s)
        self.current, self.next = self.find_period(at_s), None
        end = self.current.period.end
        self._ends_s = float("inf") if end is None else now_s + end.timestamp() - at_s
        self.refused_until_s = 0.0

    def look_ahead(self, now_s: float) -> None:
        """Prepares the next period if the current one ends in some seconds, and forgets those that are long over."""
        if self._ends_s - now_s < _NEXT_S and now_s - self.used_s < IDLE_S:
            self.next = self.find_period(self._clock(self._ends_s))
        old_s = self._clock(now_s) - _KEPT_S
        for period in list(self.periods.values()):
            if period.is_done() and period.period.end is not None and period.period.end.timestamp() < old_s:
                del self.periods[period.id]

    def lacks(self, need: int, now_s: float) -> bool:
        if now_s >= self._ends_s:
            self.turn()
        current = self.current
        # What costs nothing passes, also when more than all is used.
        return need > current.drawn - current.used and need > 0 and not self.has_ended

    def take(self, need: int, now_s: float) -> BudgetPeriod:
        if now_s >= self._ends_s:
            self.turn()
        current = self.current
        current.used += need
        current.reserved += need
        self._taken += need
        self.used_s = now_s
        if need > self._largest:
            self._largest = self._low = need
        if current.drawn - current.used < self._low and not self.is_exact:
            self._wake(self)
        return current

    def get_used(self, charge: Charge, need: int) -> int:
        if self.unit == "usd":
            return charge.cost
        return charge.tokens if self.unit == "tokens" else charge.requests

    def settle(self, receipt: BudgetPeriod, need: int, used: int) -> None:
        receipt.used += used - need
        receipt.reserved -= need
        if self.sleepers:
            self.wake_sleepers()
        if self.is_exact or receipt is not self.current or receipt.used > receipt.drawn:
            self._wake(self)

    def expect(self, need: int) -> None:
        super().expect(need)
        self._largest = max(self._largest, need)

    def get_spare(self, now_s: float) -> int:
        """Returns how much the worker should have beyond what is used."""
        if self.is_exact or self.has_ended or now_s - self.used_s > IDLE_S:
            return 0
        return max(int(self._rate * _AHEAD_S), _AHEAD_REQUESTS * self.get_largest())

    def get_largest(self) -> int:
        """Returns the largest need of the last minute or two."""
        return max(self._largest, self._largest_before)

    def count_tick(self, seconds: float) -> None:
        """Updates the mean rate of what requests take. Call it every few `seconds`."""
        self._rate += _RATE_WEIGHT * (self._taken / seconds - self._rate)
        self._taken = 0
        self._low = self.get_spare(time.monotonic()) // _AHEAD_REQUESTS

    def count_minute(self) -> None:
        """Forgets the largest need of the minute before the last one."""
        self._largest, self._largest_before = 0, self._largest

    def compute_reset(self, period: BudgetPeriod) -> datetime | None:
        """Returns from when on what is used of the period, or of its rolling window, counts less; None if never."""
        oldest = compute_period_start(period.oldest)
        return compute_reset(self.budget.window, self.budget.timezone, period.period, oldest)

    def note_state(self, period: BudgetPeriod, state: LeaseAnswer | PeriodState) -> None:
        """Notes what the database says of a period: its amount, what is granted, and when a draw found too little."""
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
