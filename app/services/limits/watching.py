"""The tick of all limits in use, every two seconds: reads their state, sends warnings, lets idle pots give back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from app.db import Database, time_limit
from app.db.leases import PeriodQuery, PeriodState, select_states
from app.logs import log_event
from app.runtime import Runtime
from app.services.limits.amounts import Unit, format_amount, parse_amount
from app.services.limits.budget_pots import IDLE_S, BudgetPeriod, BudgetPot
from app.services.limits.clock import DatabaseClock
from app.services.limits.lease_draws import DRAW_TIME_LIMIT_S
from app.services.limits.permits import RatePot
from app.services.limits.policy import Subject
from app.services.limits.pots import Pot, SlotPot
from app.services.limits.refusals import get_percent

# The most budgets that a tick reads; this many take the database some milliseconds.
MAX_READ = 200
_MINUTE_S = 60.0
# A rate used within this many seconds, since the last tick, is read again, for the headers of later responses.
_READ_RATE_S = 2.5


class BudgetWarning(msgspec.Struct, frozen=True, kw_only=True):
    """A budget whose use has reached a share at which its subject wants to be warned.

    Attributes:
        subject: the subject of the budget.
        budget: its id.
        unit, window: its unit, and its window of time.
        percent: the share that was reached, one of the budget's warn_percents.
        charged, amount: the charge and the budget's amount, as decimal numbers in the unit.
        period_id: the period, which gets one warning per share over all workers.
        resets_at: the end of the period or, for a rolling window, when its oldest use no longer counts, in ISO 8601;
            None if never.
    """

    subject: Subject
    budget: int
    unit: Unit
    window: str
    percent: int
    charged: str
    amount: str
    period_id: int
    resets_at: str | None


class Watch:
    """Checks the pots of one worker.

    Args:
        runtime: gives the database.
        clock: PostgreSQL's clock.
        get_pots: returns all pots.
        mark: makes the drawing thread check a pot.
        note_warning: records in the database that a share is warned of; returns False if another worker has done so.
        on_warning: gets each warning that this worker is the first to notice; it must not wait.
    """

    def __init__(
        self,
        runtime: Runtime,
        clock: DatabaseClock,
        get_pots: Callable[[], Iterable[Pot]],
        mark: Callable[[Pot], None],
        note_warning: Callable[[BudgetWarning], bool],
        on_warning: Callable[[BudgetWarning], None],
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._get_pots = get_pots
        self._mark = mark
        self._note_warning = note_warning
        self._on_warning = on_warning
        self._next = 0
        self._ticked_s = self._minute_s = time.monotonic()

    def tick(self) -> None:
        """Reads the state of the budgets in use, and marks all pots that may have too much or too little.

        Raises:
            DatabaseError: the database is unavailable.
        """
        now_s = time.monotonic()
        elapsed_s, self._ticked_s = max(now_s - self._ticked_s, 0.001), now_s
        is_minute = now_s - self._minute_s >= _MINUTE_S
        if is_minute:
            self._minute_s = now_s
        budgets = []
        for pot in self._get_pots():
            if isinstance(pot, BudgetPot):
                pot.count_tick(elapsed_s)
                if is_minute:
                    pot.count_minute()
                pot.look_ahead(now_s)
                budgets.append(pot)
            elif isinstance(pot, SlotPot):
                self._tick_slots(pot)
            elif isinstance(pot, RatePot) and (now_s - pot.share.used_s < _READ_RATE_S or pot.debt or pot.returned):
                self._mark(pot)
        self._tick_budgets(budgets, now_s)

    def _tick_slots(self, pot: SlotPot) -> None:
        if pot.held or pot.used:
            self._mark(pot)
        pot.count_tick()

    def _tick_budgets(self, pots: list[BudgetPot], now_s: float) -> None:
        held = [
            pot
            for pot in pots
            if now_s - pot.share.used_s < IDLE_S or not all(map(BudgetPeriod.is_done, pot.periods.values()))
        ]
        for pot in held:
            self._mark(pot)
        # If there are many, they take turns, so that reading them costs the database little.
        held = held[self._next :] + held[: self._next] if self._next < len(held) else held
        self._next = (self._next + MAX_READ) % max(len(held), 1) if len(held) > MAX_READ else 0
        held = held[:MAX_READ]
        if not held:
            return
        queries = [
            PeriodQuery(
                budget=pot.budget.id,
                period=pot.current.id,
                start_at=pot.current.period.start.isoformat(),
                since=None if pot.current.period.since is None else pot.current.period.since.isoformat(),
            )
            for pot in held
        ]
        by_period = {pot.current.id: pot for pot in held}
        asked_s = time.monotonic()
        with time_limit(DRAW_TIME_LIMIT_S):
            states = select_states(self._runtime.get(Database).lease_engine, queries)
        for state in states:
            pot = by_period[state.period]
            if (period := pot.periods.get(state.period)) is not None:
                pot.note_state(period, state)
                period.charged = parse_amount(state.charged, pot.unit)
                self._warn_if_due(pot, period, state)
        if states:
            self._clock.note(states[0].now, asked_s)

    def _warn_if_due(self, pot: BudgetPot, period: BudgetPeriod, state: PeriodState) -> None:
        percent = get_percent(period)
        passed = [share for share in pot.budget.warn_percents if percent is not None and share <= percent]
        if not passed or passed[-1] <= state.warned_percent:
            return
        reset = pot.compute_reset(period)
        warning = BudgetWarning(
            subject=pot.subject,
            budget=pot.budget.id,
            unit=pot.unit,
            window=pot.budget.window,
            percent=passed[-1],
            charged=format_amount(period.charged, pot.unit),
            amount=format_amount(period.total, pot.unit),
            period_id=period.id,
            resets_at=None if reset is None else reset.isoformat(),
        )
        with time_limit(DRAW_TIME_LIMIT_S):
            is_first = self._note_warning(warning)
        if not is_first:
            return
        log_event(
            "budget_share_passed",
            level="warning",
            subject=f"{pot.subject.kind} {pot.subject.name}",
            **{name: getattr(warning, name) for name in ("budget", "unit", "window", "percent", "charged", "amount")},
        )
        self._on_warning(warning)
