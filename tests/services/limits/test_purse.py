"""Requests that take from a purse leave all pots as they would be without a purse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import load_settings
from app.limit_errors import LimitReached
from app.runtime import Runtime
from app.services.limits import (
    Budget,
    Ceiling,
    Charge,
    Limits,
    Policy,
    Reservation,
    Subject,
    binding,
    limits,
    reservation,
)
from app.services.limits.acquisition import Taken, take_at_once
from app.services.limits.binding import Binding
from app.services.limits.waiting import LimitWaiting
from tests.support.soak import examples

COST, DRAWN, SLOTS, PERMITS = 10, 10_000, 6, 40_000


class Clock:
    """A clock that moves only when it is set."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


class NoDraws(LimitWaiting):
    """Refuses a request if the pots do not have enough even after all purses are put back."""

    def take(self, binding: Binding, shares: Any, needs: Any, fits: Any, began_s: float) -> list[Taken]:
        self._purses.put_back()
        taken = take_at_once(shares, needs, began_s)
        if taken is None:
            raise LimitReached("there is too little", limit="key")
        return taken


def make_policies() -> list[Policy]:
    """Returns the policies of three holders, two of them with budgets and in a group with a budget and rates."""
    shared = Subject("g", "group", "g", None, (), 10**8, 10**9, None, None, (_make_budget(3, "tokens"),))
    first = Subject("a", "holder", "a", "g", (), None, 10**9, 6, None, (_make_budget(1, "usd"), _make_budget(2, "usd")))
    second = Subject("b", "holder", "b", "g", (), None, None, None, None, (_make_budget(4, "tokens"),))
    third = Subject("c", "holder", "c", "g", (), 10**8, None, 6, None, ())
    return [Policy(subjects, (), None) for subjects in ((first, shared), (second, shared), (third,))]


def _make_budget(id: int, unit: Any) -> Budget:
    return Budget(id, unit, "1000000", "total", "UTC", 1, ())


class World:
    """The limits of a worker that draws only amounts that the test provides, and the requests in flight."""

    def __init__(self, clock: Clock, *, has_purses: bool) -> None:
        self.clock = clock
        self.limits = Limits(Runtime(load_settings({})))
        self.limits._waiting = NoDraws(self.limits.settings, self.limits._drawing, self.limits._purses)
        self.policies = make_policies()
        self.bindings = [self.limits._bind(policy) for policy in self.policies]
        for each in self.bindings:
            each._can_fill = has_purses
        self.requests: list[Reservation] = []
        self.slot = 0
        for pot in self.limits._slots.values():
            pot.note_answer(SLOTS, 10**6, 1, clock.now_s)
        for budget in self.limits._budgets.values():
            budget.current.set_drawn(DRAWN)
        self.draw_permits(0)

    def draw_permits(self, number: int) -> None:
        self.limits._purses.put_back()
        self.slot += 1
        for rate in self.limits._rates.values():
            rate.add(self.slot, PERMITS, self.clock.now_s)
            rate.room = rate.most

    def begin(self, number: int) -> str:
        limited = self.limits.enter(self.policies[number % 3])
        self.requests.append(limited)
        cost = number % 30
        said = None if number % 7 == 0 else number % 50
        try:
            limited.reserve([Ceiling(COST * cost, cost, said, lambda usd, tokens: None)])
        except LimitReached:
            self.requests.pop().release()
            raise
        return str(limited.period_ids)

    def end(self, number: int) -> None:
        if self.requests:
            limited = self.requests.pop(number % len(self.requests))
            if number % 5 == 0:
                limited.release()
            else:
                # Sometimes more than was reserved, or an unknown number of tokens.
                most = (limited.ceiling_cost or 0) // COST
                used = number % (most + 2)
                limited.settle(Charge(used * COST, used, 1, None if number % 3 == 0 else used))
            limited.release()

    def try_again(self, number: int) -> None:
        if self.requests:
            limited = self.requests[number % len(self.requests)]
            if limited.ceiling_cost is not None and limited.binding.charged:
                limited.add_attempt(Ceiling(number % 5 * COST, number % 5, None, lambda usd, tokens: None))

    def watch(self, number: int) -> None:
        """Makes a pot learn of each request that ends, as when little is left in it, or ends that."""
        pots = list(self.limits._budgets.values())
        pot = pots[number % len(pots)]
        pot.is_exact = pot.share.is_watched = number % 2 == 0

    def turn(self, number: int) -> None:
        for budget in self.limits._budgets.values():
            budget.turn()

    def tick(self, number: int) -> None:
        self.clock.now_s += number % 10 / 10

    def draw(self, number: int) -> None:
        for budget in self.limits._budgets.values():
            budget.current.set_drawn(budget.current.drawn + number % 20 * COST)

    def show_headers(self, number: int) -> None:
        if self.requests:
            self.requests[number % len(self.requests)].get_headers()

    def read(self) -> list[Any]:
        """Returns the numbers of all pots, once their purses are put back."""
        self.limits._purses.put_back()
        budgets = [
            (pot.share.taken, pot.share.largest, *((each.id, each.free, each.spent) for each in pot.periods.values()))
            for pot in self.limits._budgets.values()
        ]
        rates = [(rate.share.lot.free, rate.debt, dict(rate.returned)) for rate in self.limits._rates.values()]
        return [budgets, rates, [pot.used for pot in self.limits._slots.values()]]


# Mostly requests, so that purses fill up between the other steps.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "end"] * 8
            + ["try_again", "watch", "turn", "tick", "draw", "draw_permits", "show_headers", "read"]
        ),
        st.integers(0, 10_000),
    ),
    max_size=150,
)


def run_step(world: World, step: str, number: int) -> object:
    try:
        result: object = getattr(world, step)(*(() if step == "read" else (number,)))
    except LimitReached:
        return "refused"
    return result


@settings(max_examples=examples(1_000), deadline=None)
@given(STEPS)
def compare(filled: set[int], steps: list[tuple[str, int]]) -> None:
    clocks = Clock(), Clock()
    with_purses, without = (World(clock, has_purses=has) for clock, has in zip(clocks, (True, False), strict=True))
    for step, number in [*steps, *[("end", 1)] * len(steps), ("read", 0)]:
        found = []
        for world in (with_purses, without):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(limits, "time", world.clock)
                patch.setattr(reservation, "time", world.clock)
                found.append(run_step(world, step, number))
        filled |= {number for number, each in enumerate(with_purses.bindings) if each.purse.until_s}
        assert found[0] == found[1], step
    assert not any(pot.used for pot in with_purses.limits._slots.values())


def test_requests_leave_the_same_with_and_without_purses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "_FILL_AFTER", 0)
    filled: set[int] = set()
    compare(filled)
    assert filled == {0, 1, 2}, "each policy had a filled purse"
