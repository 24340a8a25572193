"""The limits of this worker: its pots, the thread that draws for them, and the requests that wait for draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from app.db import Database
from app.db.leases import update_warned
from app.logs import log_event
from app.runtime import Component, Runtime, get_runtime
from app.services.limits.acquisition import take_at_once
from app.services.limits.amounts import Unit, format_amount
from app.services.limits.binding import Binding
from app.services.limits.budget_pots import BudgetPot
from app.services.limits.clock import DatabaseClock
from app.services.limits.drawing import Drawing
from app.services.limits.lease_draws import LeaseDraws
from app.services.limits.permits import RatePot
from app.services.limits.policy import Budget, Policy, Subject
from app.services.limits.pots import Pot, Share, SlotPot
from app.services.limits.purse import Purses
from app.services.limits.rate_draws import RateDraws
from app.services.limits.reservation import Reservation
from app.services.limits.waiting import LimitWaiting
from app.services.limits.watching import BudgetWarning, Watch

# A policy is forgotten after this many seconds without a request.
_BINDING_S = 60.0
# The same for pots; longer than for the policies that refer to them.
_POT_S = 600.0
# The amounts that each request takes before its body is read, by Count: one request and one slot.
_ENTRY = (0, 0, 1, 0, 1)

R = TypeVar("R", bound=Reservation)


class Limits(Component):
    """The limits of this worker. The thread starts with the first draw.

    Attributes:
        note_warning: records in the database that a share is warned of; returns False if another worker has done so.
            Replace it to write more in the same statement.
        on_warning: gets each warning that this worker is the first to notice; it must not wait. Replace it.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.note_warning: Callable[[BudgetWarning], bool] = self._note_warned
        self.on_warning: Callable[[BudgetWarning], None] = lambda warning: None
        self._bindings: dict[int, Binding] = {}
        self._budgets: dict[int, BudgetPot] = {}
        self._rates: dict[tuple[str, str], RatePot] = {}
        self._slots: dict[str, SlotPot] = {}
        self._purses = Purses()
        self._clock = DatabaseClock(self._turn_periods)
        leases, rates = LeaseDraws(runtime, self._clock, self._purses), RateDraws(runtime, self._purses)
        self._drawing = Drawing(leases, rates, self._purses, self._tick)
        self._waiting = LimitWaiting(self.settings, self._drawing, self._purses)
        self._watch = Watch(runtime, self._clock, self._get_pots, self._drawing.mark, self._note, self._warn)

    @overload
    def enter(self, policy: Policy) -> Reservation: ...

    @overload
    def enter(self, policy: Policy, kind: type[R]) -> R: ...

    def enter(self, policy: Policy, kind: type[Reservation] = Reservation) -> Reservation:
        """Begins a request before its body is read: takes a permit of each rate of requests, and a slot.

        Args:
            policy: the limits of the request's key.
            kind: the class of the reservation that is returned.

        Raises:
            LimitReached: a rate or the number of concurrent requests is reached.
            Unavailable: the database cannot be asked.
        """
        binding = self._bindings.get(id(policy))
        if binding is None or binding.policy is not policy:
            binding = self._bind(policy)
        binding.used_s = now_s = time.monotonic()
        purse = binding.purse
        if (now_s < purse.until_s and purse.slots > 0 and purse.permits > 0) or binding.fill_purse(now_s):
            purse = binding.purse
            purse.permits -= 1
            purse.slots = slots = purse.slots - 1
            if slots < purse.fewest_slots:
                purse.fewest_slots = slots
            return kind(self._waiting, binding, [], purse)
        taken = take_at_once(binding.entry, _ENTRY, now_s)
        if taken is None:
            taken = self._waiting.take(binding, binding.entry, _ENTRY, None, now_s)
        return kind(self._waiting, binding, taken)

    def _bind(self, policy: Policy) -> Binding:
        entry: list[Share] = []
        budgets: list[BudgetPot] = []
        rates: list[RatePot] = []
        for subject in policy.subjects:
            if subject.requests_per_minute is not None:
                rates.append(self._find_rate(subject, "requests", subject.requests_per_minute))
                entry.append(rates[-1].share)
            if subject.tokens_per_minute is not None:
                rates.append(self._find_rate(subject, "tokens", subject.tokens_per_minute))
            if subject.concurrent is not None:
                entry.append(self._find_slots(subject, subject.concurrent).share)
            budgets += [self._find_budget(subject, budget) for budget in subject.budgets]
        binding = self._bindings[id(policy)] = Binding(policy, entry, budgets, rates, self._purses)
        return binding

    def _find_budget(self, subject: Subject, budget: Budget) -> BudgetPot:
        pot = self._budgets.get(budget.id)
        if pot is None:
            pot = self._budgets[budget.id] = BudgetPot(subject, budget, self._clock.read, self._drawing.mark)
        elif pot.budget != budget:
            pot.budget = budget
            pot.turn()
        pot.subject = subject
        return pot

    def _find_rate(self, subject: Subject, kind: Any, most: int) -> RatePot:
        pot = self._rates.get((subject.id, kind))
        if pot is None:
            pot = self._rates[subject.id, kind] = RatePot(subject, kind, most, self._drawing.mark)
        pot.subject = subject
        pot.set_most(most)
        return pot

    def _find_slots(self, subject: Subject, most: int) -> SlotPot:
        pot = self._slots.get(subject.id)
        if pot is None:
            pot = self._slots[subject.id] = SlotPot(subject, most, self._drawing.mark)
        pot.subject, pot.most = subject, most
        return pot

    def _get_pots(self) -> Iterable[Pot]:
        return [*self._budgets.values(), *self._rates.values(), *self._slots.values()]

    def _turn_periods(self) -> None:
        self._purses.put_back()
        for pot in self._budgets.values():
            pot.turn()

    def _tick(self) -> None:
        self._purses.put_back()
        old_s = time.monotonic() - _BINDING_S
        for key, binding in list(self._bindings.items()):
            binding.note_used()
            if binding.used_s < old_s:
                del self._bindings[key]
        self._forget_pots()
        self._watch.tick()

    def _forget_pots(self) -> None:
        """Forgets unused pots. A budget is kept until it has ended, because its totals count from its start."""
        old_s = time.monotonic() - _POT_S
        for id, budget in list(self._budgets.items()):
            if (
                budget.has_ended
                and budget.share.used_s < old_s
                and all(each.is_done() for each in budget.periods.values())
            ):
                del self._budgets[id]
        for name, rate in list(self._rates.items()):
            if rate.share.used_s < old_s:
                del self._rates[name]
        for subject, slots in list(self._slots.items()):
            if slots.share.used_s < old_s and not slots.used and not slots.held:
                del self._slots[subject]

    def _note(self, warning: BudgetWarning) -> bool:
        return self.note_warning(warning)

    def _note_warned(self, warning: BudgetWarning) -> bool:
        return update_warned(self.runtime.get(Database).lease_engine, warning.period_id, warning.percent)

    def _warn(self, warning: BudgetWarning) -> None:
        try:
            self.on_warning(warning)
        except Exception as error:
            log_event("budget_warning_failed", level="error", error=error)

    def get_outstanding(self) -> dict[Unit, int]:
        """Returns how much this worker has drawn from budgets and no request has spent, by unit."""
        self._purses.put_back()
        outstanding: dict[Unit, int] = {"usd": 0, "tokens": 0, "requests": 0}
        for pot in self._budgets.values():
            for period in pot.periods.values():
                outstanding[pot.unit] += max(period.drawn - period.spent, 0)
        return outstanding

    def stop(self, timeout_s: float) -> bool:
        """Ends the draws, and returns whether no call is under way any more. The journal then closes the leases."""
        return self._drawing.stop(timeout_s)

    def close(self) -> None:
        """Ends the thread."""
        self._drawing.stop(0.0)


def get_outstanding() -> dict[Unit, float]:
    """Returns how much this process has drawn from budgets and no request has spent, by unit."""
    limits = get_runtime().find(Limits)
    outstanding = {} if limits is None else limits.get_outstanding()
    return {unit: float(format_amount(number, unit)) for unit, number in outstanding.items()}


def stop_limits(timeout_s: float) -> bool:
    """Ends the draws of this process. Call it before the journal stops, because the journal closes the leases.

    Returns:
        Whether no draw is in progress; one that still runs is ignored by the database once the leases are closed.
    """
    limits = get_runtime().find(Limits)
    return True if limits is None else limits.stop(timeout_s)
