"""How a request gets what it needs of its limits: at once from memory, or after it waited for draws."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from app.config import Settings
from app.limit_errors import LimitReached
from app.metrics import count_limit_refusal, observe_limit_wait
from app.services.limits.budget_pots import BudgetPot
from app.services.limits.drawing import Drawing
from app.services.limits.permits import RatePot
from app.services.limits.pots import Pot, SlotPot
from app.services.limits.refusals import (
    Fits,
    make_budget_refusal,
    make_rate_headers,
    make_rate_refusal,
    make_slot_refusal,
    make_unavailable,
)

# How long a request waits for draws in all, and for others to give something back.
WAIT_S = 2.0
NO_ROOM_WAIT_S = 0.3
# How long a request that found no room waits before it asks again, unless one of this worker gives something back.
_ASK_AGAIN_S = 0.03
# How long a refusal holds for this worker's next requests of as much.
REFUSAL_S = 0.1

# A pot, and what is needed of it.
Demand = tuple[Pot, int]
# A pot, what was taken of it, and its receipt.
Taken = tuple[Pot, int, Any]


class Acquisition:
    """Takes from pots for requests.

    Args:
        settings: what happens in an outage.
        drawing: draws what the pots lack.
    """

    def __init__(self, settings: Settings, drawing: Drawing) -> None:
        self._settings = settings
        self._drawing = drawing

    def acquire(self, demands: Sequence[Demand], fits: Fits | None) -> list[Taken]:
        """Takes from all pots as much as is needed, or from none.

        Nothing between the first look and the last taking lets another greenlet run.

        Args:
            demands: pots and what is needed of each.
            fits: see `make_budget_refusal`.

        Returns:
            What was taken, in the order of the demands.

        Raises:
            LimitReached: a pot has too little, also after other workers were asked to give back.
            Unavailable: the database cannot be asked.
        """
        now_s = time.monotonic()
        for pot, need in demands:
            if pot.lacks(need, now_s):
                return self._acquire_slowly(demands, fits, now_s)
        taken: list[Taken] = []
        for pot, need in demands:  # A comprehension is a call of its own.
            taken.append((pot, need, pot.take(need, now_s)))
        return taken

    def _acquire_slowly(self, demands: Sequence[Demand], fits: Fits | None, began_s: float) -> list[Taken]:
        no_room_s = float("inf")
        while True:
            now_s = time.monotonic()
            lacking = [demand for demand in demands if demand[0].lacks(demand[1], now_s)]
            if not lacking:
                observe_limit_wait(now_s - began_s)
                return [(pot, need, pot.take(need, now_s)) for pot, need in demands]
            for pot, need in lacking:
                if pot.is_refused(need, now_s):
                    raise self._refuse(pot, need, fits, demands)
            left_s = began_s + WAIT_S - now_s
            if left_s <= 0 and not self._drawing.is_failing:  # Others have taken all that was drawn.
                raise self._refuse(*lacking[0], fits, demands)
            before = [pot.refusals for pot, _ in lacking]
            if self._drawing.is_failing or not self._wait(lacking, left_s):
                return self._acquire_in_outage(demands, {pot for pot, _ in lacking}, now_s)
            refused = [demand for demand, count in zip(lacking, before, strict=True) if demand[0].refusals > count]
            if refused:
                no_room_s = min(no_room_s, time.monotonic())
                self._pause(refused, no_room_s)

    def _wait(self, lacking: Sequence[Demand], left_s: float) -> bool:
        """Waits for a round of draws; returns False if it takes too long."""
        for pot, need in lacking:
            pot.expect(need)
        return self._drawing.wait_for(lacking, left_s)

    def _pause(self, refused: Sequence[Demand], no_room_s: float) -> None:
        """Waits for others to give something back, or notes that it is no use to wait any longer."""
        now_s = time.monotonic()
        is_refused = False
        for pot, need in refused:
            if pot.lacks(need, now_s) and (now_s - no_room_s >= NO_ROOM_WAIT_S or _can_never_fit(pot, need)):
                pot.remember_refusal(need, now_s + REFUSAL_S)
            is_refused = is_refused or pot.is_refused(need, now_s)
        if not is_refused:
            given_back = threading.Event()
            for pot, _ in refused:
                pot.sleepers.add(given_back)
            given_back.wait(_ASK_AGAIN_S)
            for pot, _ in refused:
                pot.sleepers.discard(given_back)

    def _refuse(self, pot: Pot, need: int, fits: Fits | None, demands: Sequence[Demand]) -> LimitReached:
        if isinstance(pot, BudgetPot):
            error = make_budget_refusal(pot, need, fits, int(self._settings.budget_status))
            count_limit_refusal("reserved" if error.code == "budget_reserved" else "budget")
            return error
        if isinstance(pot, RatePot):
            count_limit_refusal(pot.kind)
            now_s = time.monotonic()
            rates = [other for other, _ in demands if isinstance(other, RatePot)]
            return make_rate_refusal(pot, need, pot.refused_until_s - now_s, make_rate_headers(rates, now_s))
        assert isinstance(pot, SlotPot)
        count_limit_refusal("concurrent")
        return make_slot_refusal(pot)

    def _acquire_in_outage(self, demands: Sequence[Demand], lacking: set[Pot], now_s: float) -> list[Taken]:
        """Serves or refuses while the database does not answer, as BUDGET_OUTAGE and RATE_OUTAGE say."""
        settings = self._settings
        for pot in lacking:
            policy = settings.budget_outage if isinstance(pot, BudgetPot) else settings.rate_outage
            if policy == "refuse":
                count_limit_refusal("unavailable")
                raise make_unavailable()
        taken: list[Taken] = []
        for pot, need in demands:
            receipt: Any = ()
            if pot not in lacking or not isinstance(pot, RatePot):
                if pot in lacking and isinstance(pot, SlotPot) and not pot.is_within_share(need):
                    _give_back(taken)
                    raise self._refuse(pot, need, None, demands)
                receipt = pot.take(need, now_s)
            elif not pot.take_locally(need, now_s):
                _give_back(taken)
                pot.remember_refusal(need, now_s + pot.get_local_wait_s(now_s))
                raise self._refuse(pot, need, None, demands)
            taken.append((pot, need, receipt))
        return taken


def _can_never_fit(pot: Pot, need: int) -> bool:
    """Returns whether a budget has less left than needed even if all that is in use came back."""
    return isinstance(pot, BudgetPot) and pot.current.total - max(pot.current.charged, 0) < need


def _give_back(taken: Sequence[Taken]) -> None:
    for pot, need, receipt in taken:
        pot.settle(receipt, need, 0)
