"""The thread that draws the amounts that this worker's requests need from the database, and returns unused ones.

It makes one call at a time, so that no answer is older than one already applied. A request that lacks something waits
for the next round; other draws are gathered for some milliseconds. All pots are checked every two seconds.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from app.config import SettingsError
from app.db import DatabaseError, describe_error
from app.logs import log_event
from app.metrics import count_draw
from app.services.limits.budget_pots import BudgetPot
from app.services.limits.lease_draws import MAX_POTS, LeaseDraws
from app.services.limits.permits import RatePot
from app.services.limits.pots import Pot, SlotPot
from app.services.limits.purse import Purses
from app.services.limits.rate_draws import RateDraws

# How often all pots are checked, in seconds: as often as keys are confirmed.
TICK_S = 2.0
# How long draws without a waiting request are gathered, in seconds.
GATHER_S = 0.05
# The pause after a failed call, in seconds. Meanwhile requests that need a draw do not wait.
RETRY_S = 0.5
# The longest delay of a tick while requests wait, in seconds.
_TICK_DELAY_S = 1.0
_REPORT_INTERVAL_S = 60.0


class Drawing:
    """The draws of one worker.

    Args:
        leases, rates: make the calls.
        purses: amounts that requests hold jointly; put back before pots are checked.
        tick: checks all pots every TICK_S and marks those that need a draw; it may raise DatabaseError.

    Attributes:
        is_failing: whether the last call failed. Until one succeeds, no request needs to wait.
    """

    def __init__(self, leases: LeaseDraws, rates: RateDraws, purses: Purses, tick: Callable[[], None]) -> None:
        self.is_failing = False
        self._purses = purses
        self._leases, self._rates, self._tick = leases, rates, tick
        self._retry_at_s = self._report_at_s = 0.0
        self._tick_at_s = 0.0
        self._waiters: list[tuple[threading.Event, Sequence[tuple[Pot, int]]]] = []
        self._marked: dict[Pot, None] = {}
        self._woken, self._urgent, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread; later calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="limit-draws", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread after its current call, and returns whether it has ended within `timeout_s` seconds."""
        self._closed.set()
        self._urgent.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def mark(self, pot: Pot) -> None:
        """Makes the thread check a pot soon."""
        self._marked[pot] = None
        if not self._woken.is_set():
            self._woken.set()

    def wait_for(self, lacking: Sequence[tuple[Pot, int]], timeout_s: float) -> bool:
        """Waits until a round has drawn for these needs or has failed; returns False if it takes too long."""
        done = threading.Event()
        self._waiters.append((done, lacking))
        self.start()
        self._urgent.set()
        self._woken.set()
        return done.wait(timeout_s)

    def _run(self) -> None:
        while not self._closed.is_set():
            next_s = self._retry_at_s if self.is_failing else self._tick_at_s
            self._woken.wait(max(next_s - time.monotonic(), 0.001))
            if not self._waiters and time.monotonic() < next_s:
                self._urgent.wait(GATHER_S)
            self._woken.clear()
            self._urgent.clear()
            try:
                self.run_round()
            except Exception as error:
                log_event("limit_draw_failed", level="error", error=error)

    def run_round(self) -> None:
        """Draws once for all waiting requests and all marked pots; ticks if a tick is due."""
        waiters, self._waiters = self._waiters, []
        try:
            now_s = time.monotonic()
            if not self.is_failing or now_s >= self._retry_at_s:
                self._draw(waiters, now_s)
                self._note_success()
        except (DatabaseError, SettingsError) as error:
            self._note_failure(error)
        finally:
            for done, _ in waiters:
                done.set()
            if waiters:
                # Lets the waiting requests take their draws, before the next round gives back unused amounts.
                time.sleep(0)

    def _draw(self, waiters: Sequence[tuple[threading.Event, Sequence[tuple[Pot, int]]]], now_s: float) -> None:
        needs: dict[Pot, list[int]] = defaultdict(list)
        for _, lacking in waiters:
            for pot, need in lacking:
                needs[pot].append(need)
        self._purses.put_back()
        for pot, waiting in list(needs.items()):
            if not pot.lacks(sum(waiting), now_s):  # The previous draw brought enough for these requests too.
                del needs[pot]
        if now_s >= self._tick_at_s + (_TICK_DELAY_S if waiters else 0.0):
            self._tick_at_s = now_s + TICK_S
            self._tick()
        marked, self._marked = self._marked, {}
        pots = list({**needs, **marked})
        try:
            self._draw_for(pots, needs, now_s)
        except BaseException:
            # The outcome of these draws is not known, so the next round must repeat them.
            self._marked.update(dict.fromkeys(pots))
            raise

    def _draw_for(self, pots: Sequence[Pot], needs: dict[Pot, list[int]], now_s: float) -> None:
        slots = [pot for pot in pots if isinstance(pot, SlotPot)]
        for first in range(0, len(slots), MAX_POTS):
            self._rates.draw_slots(slots[first : first + MAX_POTS], needs)
        rates = [pot for pot in pots if isinstance(pot, RatePot)]
        for first in range(0, len(rates), MAX_POTS):
            self._rates.draw_permits(rates[first : first + MAX_POTS], needs)
        budgets = sorted((pot for pot in pots if isinstance(pot, BudgetPot)), key=lambda pot: pot not in needs)
        for first in range(0, len(budgets), MAX_POTS):
            # Planned right before the call, because requests take from the pots during a call.
            self._leases.draw(self._leases.plan(budgets[first : first + MAX_POTS], needs, now_s))

    def _note_success(self) -> None:
        if self.is_failing:
            log_event("limit_draws_resumed")
        self.is_failing, self._report_at_s = False, 0.0

    def _note_failure(self, error: Exception) -> None:
        now_s = time.monotonic()
        self.is_failing = True
        self._retry_at_s = now_s + RETRY_S * random.uniform(0.5, 1.0)
        count_draw("all", "failed")
        if now_s >= self._report_at_s:
            self._report_at_s = now_s + _REPORT_INTERVAL_S
            log_event("limit_draw_failed", level="error", reason=describe_error(error))
