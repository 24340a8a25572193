"""The limits of this worker: its pots, the thread that draws for them, and the requests that wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from app.logs import log_event
from app.runtime import Component, Runtime, get_component
from app.services.limits.acquisition import Acquisition
from app.services.limits.amounts import Unit
from app.services.limits.binding import Binding
from app.services.limits.budget_pots import BudgetPot
from app.services.limits.clock import DatabaseClock
from app.services.limits.drawing import Drawing
from app.services.limits.lease_draws import LeaseDraws
from app.services.limits.permits import RatePot
from app.services.limits.policy import Budget, Policy, Subject
from app.services.limits.pots import Pot, SlotPot
from app.services.limits.rate_draws import RateDraws
from app.services.limits.reservation import Reservation
from app.services.limits.watching import BudgetWarning, Watch

# Policies that no request had for so long are forgotten.
_BINDING_S = 60.0


class Limits(Component):
    """The limits of this worker. The thread starts when something must be drawn.

    Attributes:
        on_warning: gets each warning of which this worker is the first to know; it must not wait. Replace it.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.on_warning: Callable[[BudgetWarning], None] = lambda warning: None
        self._bindings: dict[int, Binding] = {}
        self._budgets: dict[int, BudgetPot] = {}
        self._rates: dict[tuple[str, str], RatePot] = {}
        self._slots: dict[str, SlotPot] = {}
        self._clock = DatabaseClock(self._turn_periods)
        self._drawing = Drawing(LeaseDraws(runtime, self._clock), RateDraws(runtime), self._tick)
        self._acquire = Acquisition(self.settings, self._drawing).acquire
        self._watch = Watch(runtime, self._clock, self._get_pots, self._drawing.mark, self._warn)

    def enter(self, policy: Policy) -> Reservation:
        """Begins a request, before its body is read: takes a request of each rate, and a slot.

        Args:
            policy: the limits of the request's key.

        Raises:
            LimitReached: a rate or the number of concurrent requests is reached.
            Unavailable: the database cannot be asked.
        """
        binding = self._bindings.get(id(policy))
        if binding is None or binding.policy is not policy:
            binding = self._bind(policy)
        binding.used_s = time.monotonic()
        return Reservation(self._acquire, binding, self._acquire(binding.entry, None) if binding.entry else [])

    def _bind(self, policy: Policy) -> Binding:
        entry: list[tuple[Pot, int]] = []
        budgets: list[BudgetPot] = []
        rates: list[RatePot] = []
        for subject in policy.subjects:
            if subject.requests_per_minute is not None:
                rates.append(self._find_rate(subject, "requests", subject.requests_per_minute))
                entry.append((rates[-1], 1))
            if subject.tokens_per_minute is not None:
                rates.append(self._find_rate(subject, "tokens", subject.tokens_per_minute))
            if subject.concurrent is not None:
                entry.append((self._find_slots(subject, subject.concurrent), 1))
            budgets += [self._find_budget(subject, budget) for budget in subject.budgets]
        binding = self._bindings[id(policy)] = Binding(policy, entry, budgets, rates)
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
            pot = self._rates[subject.id, kind] = RatePot(subject, kind, most)
        pot.subject, pot.most = subject, most
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
        for pot in self._budgets.values():
            pot.turn()

    def _tick(self) -> None:
        old_s = time.monotonic() - _BINDING_S
        for key, binding in list(self._bindings.items()):
            if binding.used_s < old_s:
                del self._bindings[key]
        self._watch.tick()

    def _warn(self, warning: BudgetWarning) -> None:
        try:
            self.on_warning(warning)
        except Exception as error:
            log_event("budget_warning_failed", level="error", error=error)

    def get_outstanding(self) -> dict[Unit, int]:
        """Returns what this worker has drawn of budgets and no request has spent, by unit."""
        outstanding: dict[Unit, int] = {"usd": 0, "tokens": 0, "requests": 0}
        for pot in self._budgets.values():
            for period in pot.periods.values():
                outstanding[pot.unit] += max(period.drawn - period.used + period.reserved, 0)
        return outstanding

    def stop(self, timeout_s: float) -> bool:
        """Ends the draws, and returns whether no call is under way any more. The journal then closes the leases."""
        return self._drawing.stop(timeout_s)

    def close(self) -> None:
        """Ends the thread."""
        self._drawing.stop(0.0)


class LimitsState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of this worker's limits.

    Attributes:
        outstanding: what it has drawn of budgets and no request has spent, by unit.
        is_failing: whether its last draw failed.
    """

    outstanding: dict[Unit, int]
    is_failing: bool


def stop_limits(timeout_s: float) -> bool:
    """Ends the draws of this process. Call it before the journal stops, which closes the leases."""
    return get_component(Limits).stop(timeout_s)
