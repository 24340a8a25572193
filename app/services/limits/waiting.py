"""Makes a request wait for draws, or refuses it, if this worker's memory has too little for its limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from app.config import Settings
from app.limit_errors import LimitReached
from app.metrics import count_limit_refusal, observe_limit_wait
from app.services.limits.acquisition import Amounts, Taken, get_unknown_need, take_at_once
from app.services.limits.binding import Binding
from app.services.limits.budget_pots import BudgetPot
from app.services.limits.drawing import Drawing
from app.services.limits.permits import RatePot
from app.services.limits.pots import Pot, Share, SlotPot
from app.services.limits.purse import Purses
from app.services.limits.refusals import (
    Fits,
    make_budget_refusal,
    make_rate_headers,
    make_rate_refusal,
    make_slot_refusal,
    make_unavailable,
)

# The longest total wait of a request for draws and for amounts that others give back, in seconds.
WAIT_S = 2.0
NO_ROOM_WAIT_S = 0.3
# How long a request that found no room waits before it asks again, unless another one of this worker gives back.
_ASK_AGAIN_S = 0.03
# How long a refusal also holds for this worker's next requests with the same need or more, in seconds.
REFUSAL_S = 0.1

# A pot and the amount needed of it.
Demand = tuple[Pot, int]


class LimitWaiting:
    """Takes from pots for requests that cannot be served from memory at once.

    Args:
        settings: the behaviour in an outage.
        drawing: draws the amounts that the pots lack.
        purses: amounts that requests hold jointly; put back before a request has to wait.
    """

    def __init__(self, settings: Settings, drawing: Drawing, purses: Purses) -> None:
        self._settings = settings
        self._drawing = drawing
        self._purses = purses

    def take(
        self, binding: Binding, shares: Sequence[Share], needs: Amounts, fits: Fits | None, began_s: float
    ) -> list[Taken]:
        """Takes the needed amounts from all pots, or from none, as soon as they have them.

        Args:
            binding: the request's binding; after a refusal, its headers are made anew.
            shares, needs: as for `take_at_once`.
            fits: see `make_budget_refusal`.
            began_s: the time, on the monotonic clock.

        Raises:
            LimitReached: a pot has too little, even after other workers were asked to give back.
            Unavailable: the database cannot be asked.
        """
        self._purses.put_back()
        taken = take_at_once(shares, needs, began_s)
        if taken is not None:
            return taken
        demands: list[Demand] = []
        for share in shares:
            need = needs[share.count]
            demands.append((share.pot, min(get_unknown_need(share.pot) if need is None else need, share.cap)))
        wait = _Wait(self._settings, self._drawing, self._purses, demands, fits, began_s)
        while taken is None:
            try:
                now_s = wait.wait()
            except LimitReached:
                binding.headers_until_s = 0.0  # The old headers say that much is left.
                raise
            self._purses.put_back()
            taken = take_at_once(shares, needs, now_s, wait.forced)
        if not wait.forced:
            observe_limit_wait(now_s - began_s)
        return taken


class _Wait:
    """The wait of one request.

    Args:
        settings: the behaviour in an outage.
        drawing: draws the amounts that the pots lack.
        purses: see LimitWaiting.
        demands: the pots and the amounts needed of them.
        fits: see `make_budget_refusal`.
        began_s: when the request began to wait, on the monotonic clock.

    Attributes:
        forced: pots to take from although they have too little, because the database does not answer.
    """

    def __init__(
        self,
        settings: Settings,
        drawing: Drawing,
        purses: Purses,
        demands: Sequence[Demand],
        fits: Fits | None,
        began_s: float,
    ) -> None:
        self._settings, self._drawing, self._purses = settings, drawing, purses
        self._demands, self._fits = demands, fits
        self._began_s = began_s
        self._no_room_s = float("inf")
        self.forced: frozenset[Pot] = frozenset()

    def wait(self) -> float:
        """Waits until all pots are worth another check.

        Returns:
            The time, on the monotonic clock.

        Raises:
            LimitReached: a pot has too little, even after other workers were asked to give back.
            Unavailable: the database cannot be asked.
        """
        now_s = time.monotonic()
        lacking = [demand for demand in self._demands if demand[0].lacks(demand[1], now_s)]
        for pot, need in lacking:
            if pot.is_refused(need, now_s):
                raise self._make_refusal(pot, need)
        left_s = self._began_s + WAIT_S - now_s
        if lacking and left_s <= 0 and not self._drawing.is_failing:  # Others took everything that was drawn.
            raise self._make_refusal(*lacking[0])
        before = [pot.refusals for pot, _ in lacking]
        if self._drawing.is_failing or not self._draw(lacking, left_s):
            return self._force(lacking, now_s)
        refused = [demand for demand, count in zip(lacking, before, strict=True) if demand[0].refusals > count]
        if refused:
            self._no_room_s = min(self._no_room_s, time.monotonic())
            self._pause(refused)
        return time.monotonic()

    def _draw(self, lacking: Sequence[Demand], left_s: float) -> bool:
        """Waits for a round of draws; returns False if it takes too long."""
        for pot, need in lacking:
            pot.expect(need)
        return self._drawing.wait_for(lacking, left_s)

    def _pause(self, refused: Sequence[Demand]) -> None:
        """Waits for others to give something back, or notes that further waiting is useless."""
        now_s = time.monotonic()
        self._purses.put_back()
        is_refused = False
        for pot, need in refused:
            if pot.lacks(need, now_s) and (now_s - self._no_room_s >= NO_ROOM_WAIT_S or _can_never_fit(pot, need)):
                pot.remember_refusal(need, now_s + REFUSAL_S)
            is_refused = is_refused or pot.is_refused(need, now_s)
        if not is_refused:
            given_back = threading.Event()
            for pot, _ in refused:
                pot.add_sleeper(given_back)
            self._purses.put_back()  # From now on, each request that ends gives back to the pots.
            given_back.wait(_ASK_AGAIN_S)
            for pot, _ in refused:
                pot.sleepers.discard(given_back)

    def _make_refusal(self, pot: Pot, need: int) -> LimitReached:
        if isinstance(pot, BudgetPot):
            error = make_budget_refusal(pot, need, self._fits, int(self._settings.budget_status))
            count_limit_refusal("reserved" if error.code == "budget_reserved" else "budget")
            return error
        if isinstance(pot, RatePot):
            count_limit_refusal(pot.kind)
            now_s = time.monotonic()
            rates = [other for other, _ in self._demands if isinstance(other, RatePot)]
            return make_rate_refusal(pot, need, pot.refused_until_s - now_s, make_rate_headers(rates, now_s))
        assert isinstance(pot, SlotPot)
        count_limit_refusal("concurrent")
        return make_slot_refusal(pot)

    def _force(self, lacking: Sequence[Demand], now_s: float) -> float:
        """Serves or refuses while the database does not answer, by BUDGET_OUTAGE and RATE_OUTAGE."""
        settings = self._settings
        for pot, _ in lacking:
            policy = settings.budget_outage if isinstance(pot, BudgetPot) else settings.rate_outage
            if policy == "refuse":
                count_limit_refusal("unavailable")
                raise make_unavailable()
        for pot, need in lacking:
            if isinstance(pot, SlotPot) and not pot.is_within_share(need):
                raise self._make_refusal(pot, need)
            if isinstance(pot, RatePot) and not pot.grant_locally(need, now_s):
                pot.remember_refusal(need, now_s + pot.get_local_wait_s(now_s))
                raise self._make_refusal(pot, need)
        self.forced = frozenset(pot for pot, _ in lacking if not isinstance(pot, RatePot))
        return now_s


def _can_never_fit(pot: Pot, need: int) -> bool:
    """Returns whether a budget would have too little even if all reserved amounts came back."""
    return isinstance(pot, BudgetPot) and pot.current.total - max(pot.current.charged, 0) < need
