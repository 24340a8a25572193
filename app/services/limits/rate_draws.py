"""Decides which permits and slots a worker draws or gives back, and applies the answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.db import Database, time_limit
from app.db.rates import PermitDraw, SlotDraw, draw_permits, draw_slots
from app.metrics import count_draw
from app.runtime import Runtime
from app.services.limits.lease_draws import DRAW_TIME_LIMIT_S, Needs
from app.services.limits.permits import RatePot
from app.services.limits.pots import SlotPot
from app.services.limits.purse import Purses

# The seconds after which a refused need is asked for again, if the database names no time at which it would fit.
_UNKNOWN_WAIT_S = 1.0


class RateDraws:
    """The draws of one worker from rates and from the numbers of concurrent requests."""

    def __init__(self, runtime: Runtime, purses: Purses) -> None:
        self._runtime = runtime
        self._purses = purses
        self._version = 0

    def draw_slots(self, pots: Sequence[SlotPot], needs: Needs) -> None:
        """Reports how many requests are served, and draws more slots, in one call.

        Raises:
            DatabaseError: the database is unavailable.
        """
        self._version += 1
        self._purses.put_back()
        draws = []
        for pot in pots:
            waiting = needs.get(pot, ())
            firm = pot.used + sum(waiting)
            draws.append(
                SlotDraw(
                    subject=pot.subject.id,
                    most=pot.most,
                    version=self._version,
                    used=pot.used,
                    need=pot.used + min(waiting, default=0),
                    firm=firm,
                    want=firm + pot.get_spare(),
                )
            )
            pot.keep_used()  # Until the answer, the worker has only the slots that it keeps for certain.
        asked_s = time.monotonic()
        with time_limit(DRAW_TIME_LIMIT_S):
            answers = draw_slots(self._runtime.get(Database).lease_engine, self._runtime.worker_id, draws)
        self._purses.put_back()
        by_subject = {answer.subject: answer for answer in answers.pots}
        for pot in pots:
            answer = by_subject[pot.subject.id]
            pot.note_answer(answer.held, answer.room, answers.workers, asked_s)
            pot.refusals += answer.refused
            count_draw("concurrent", "refused" if answer.refused else "done")

    def draw_permits(self, pots: Sequence[RatePot], needs: Needs) -> None:
        """Returns unused permits, and draws new ones for waiting and expected requests, in one call.

        Raises:
            DatabaseError: the database is unavailable.
        """
        self._purses.put_back()
        draws = []
        asked_s = time.monotonic()
        for pot in pots:
            waiting = needs.get(pot, ())
            returned, debt = pot.take_return(asked_s)
            firm, is_due = sum(waiting), pot.is_due
            pot.is_due = False
            draws.append(
                PermitDraw(
                    subject=pot.subject.id,
                    kind=pot.kind,
                    most=pot.most,
                    need=min(waiting, default=0),
                    firm=firm,
                    want=firm + (pot.get_ahead(asked_s) if waiting or is_due else 0),
                    debt=debt,
                    returned=returned,
                )
            )
        with time_limit(DRAW_TIME_LIMIT_S):
            answers = draw_permits(self._runtime.get(Database).lease_engine, draws)
        self._purses.put_back()
        by_name = {(answer.subject, answer.kind): answer for answer in answers.pots}
        for pot, draw in zip(pots, draws, strict=True):
            answer = by_name[pot.subject.id, pot.kind]
            pot.add(answer.slot, answer.given, asked_s)
            pot.room, pot.workers = answer.room, answers.workers
            pot.refusals += answer.refused
            if answer.refused and draw.need:
                wait_s = _UNKNOWN_WAIT_S if answer.wait_s is None else answer.wait_s
                pot.remember_refusal(draw.need, asked_s + wait_s)
            count_draw("rate", "refused" if answer.refused else "done")
