"""Pots: one worker's part of a limit, kept in memory, from which it lends to requests without asking the database.

A pot needs no lock: greenlets switch only at waits, and nothing here waits. drawing.py draws more for it and gives back
unused amounts. Taking and giving back is the same for all pots, so acquisition.py and reservation.py each do it in one
loop over the shares, without a call for each pot.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum

from app.services.limits.policy import Subject

# A worker that has not reported its requests for 30 s holds no slots any more, so it must stop using them before.
_SEEN_S = 25.0
# Larger than any need of a request.
UNBOUNDED = 1 << 100


class Count(IntEnum):
    """The unit that a pot counts; the value is its index in the amounts of a request."""

    COST = 0
    TOKENS = 1
    REQUESTS = 2
    RATE_TOKENS = 3
    SLOTS = 4


class Lot:
    """The source that a pot lends from for a time: a period of a budget, permits of half a second, or all slots.

    Attributes:
        id: the id of the period or of the half second; 0 if the database knows none.
        free: the amount that can be lent; negative if requests took more than the worker has.
        spent: the use of ended requests.
    """

    __slots__ = ("free", "id", "spent")

    def __init__(self, id: int = 0, free: int = 0) -> None:
        self.id = id
        self.free = free
        self.spent = 0


class Share:
    """The numbers of a pot that each request reads and changes.

    They are in a class of their own, shared by all kinds of pots, because Python reads attributes much faster from
    objects of one class than from objects of several.

    Attributes:
        pot: the pot that the numbers belong to.
        count: its unit.
        lot: the lot that it lends from.
        until_s: the end of the lot, on the monotonic clock; then `Pot.renew` must be called.
        cap: the most that one request reserves; larger needs are cut to this.
        low, largest: `Pot.note_taken` is called when less than `low` is free, or a request needs more than `largest`.
        is_watched: whether `Pot.note_settled` is called after each request, and not only after those that give back to
            an earlier lot or leave it overdrawn.
        taken: the amount that requests have taken, since a time that depends on the pot.
        used_s: the time of the last use by a request, as of the last tick.
    """

    __slots__ = ("cap", "count", "is_watched", "largest", "lot", "low", "pot", "taken", "until_s", "used_s")

    def __init__(self, pot: Pot, count: Count, lot: Lot) -> None:
        self.pot = pot
        self.count = int(count)
        self.lot = lot
        self.until_s = float("inf")
        self.cap = self.largest = UNBOUNDED
        self.low = self.taken = 0
        self.is_watched = False
        self.used_s = time.monotonic()


class Pot(ABC):
    """A limit in the memory of one worker.

    Attributes:
        subject: the subject of the limit.
        share: the numbers that requests change.
        refused_need, refused_until_s: a need of at least this much is refused until then, on the monotonic clock.
        refusals: the number of draws that found less than the smallest need.
        sleepers: events that are set when a request gives something back.
    """

    __slots__ = ("refusals", "refused_need", "refused_until_s", "share", "sleepers", "subject")

    def __init__(self, subject: Subject, count: Count, lot: Lot) -> None:
        self.subject = subject
        self.share = Share(self, count, lot)
        self.refused_need = 0
        self.refused_until_s = 0.0
        self.refusals = 0
        self.sleepers: set[threading.Event] = set()

    @abstractmethod
    def renew(self, now_s: float) -> None:
        """Replaces the lot, because its time is over."""

    @abstractmethod
    def note_taken(self, need: int) -> None:
        """Called when a request took so much that `low` or `largest` was passed."""

    @abstractmethod
    def note_settled(self, lot: Lot) -> None:
        """Called when a request has given back to `lot`."""

    def add_sleeper(self, sleeper: threading.Event) -> None:
        """Sets `sleeper` when a request gives something back."""
        self.sleepers.add(sleeper)
        self.share.is_watched = True

    def wake_sleepers(self) -> None:
        """Wakes the requests that wait for something to be given back."""
        sleepers, self.sleepers = self.sleepers, set()
        for sleeper in sleepers:
            sleeper.set()

    def lacks(self, need: int, now_s: float) -> bool:
        """Returns whether the pot has less than `need`. A need of 0 always passes, even if the pot is overdrawn."""
        if now_s >= self.share.until_s:
            self.renew(now_s)
        return need > self.share.lot.free and need > 0

    def expect(self, need: int) -> None:
        """Notes that a request waits for this amount."""
        self.share.used_s = time.monotonic()

    def is_refused(self, need: int, now_s: float) -> bool:
        """Returns whether an equal or smaller need was refused a moment ago."""
        return need >= self.refused_need and now_s < self.refused_until_s

    def remember_refusal(self, need: int, until_s: float) -> None:
        """Refuses needs of at least `need` until `until_s`."""
        self.refused_need, self.refused_until_s = need, until_s


class SlotPot(Pot):
    """The number of a subject's requests that this worker may serve at once, and the number that it serves.

    Attributes:
        most: the limit of all workers.
        held: the number of requests that this worker may serve.
        is_exact: whether so little is left that the worker keeps nothing in reserve.
        peak: the most requests that it served at once since the last tick.
        workers: the number of live workers, by the database's last answer.
    """

    __slots__ = ("_wake", "held", "is_exact", "most", "peak", "workers")

    def __init__(self, subject: Subject, most: int, wake: Callable[[Pot], None]) -> None:
        super().__init__(subject, Count.SLOTS, Lot())
        self.most = most
        self.held = self.peak = 0
        self.workers = 1
        self.is_exact = self.share.is_watched = True
        self.share.until_s = 0.0
        self._wake = wake

    @property
    def used(self) -> int:
        """The number of requests being served."""
        return self.held - self.share.lot.free

    def renew(self, now_s: float) -> None:
        self.keep_used()
        self.share.until_s = float("inf")

    def keep_used(self) -> None:
        """Keeps only the slots that requests hold already."""
        self._hold(min(self.held, self.used))

    def _hold(self, held: int) -> None:
        more, self.held = held - self.held, held
        self.share.lot.free += more
        self.share.low += more

    def is_within_share(self, need: int) -> bool:
        """Returns whether this worker's share of the limit has room; used while the database is away."""
        return self.used + need <= max(self.most // max(self.workers, 1), 1)

    def note_taken(self, need: int) -> None:
        self.share.low = self.share.lot.free
        self.peak = max(self.peak, self.used)

    def note_settled(self, lot: Lot) -> None:
        self.wake_sleepers()
        self.share.is_watched = self.is_exact
        if self.is_exact:
            self._wake(self)

    def count_tick(self) -> None:
        """Begins the peak measurement of the next tick."""
        self.share.low, self.peak = self.share.lot.free, self.used

    def get_spare(self) -> int:
        """Returns how many slots the worker should hold beyond those in use."""
        return 0 if self.is_exact else max(self.peak - self.used, 0)

    def note_answer(self, held: int, room: int, workers: int, asked_s: float) -> None:
        """Applies the database's answer: the slots of this worker, and those left for all."""
        self._hold(held)
        self.workers = workers
        self.is_exact = room < self.most // 4
        self.share.is_watched = self.is_exact or bool(self.sleepers)
        self.share.until_s = asked_s + _SEEN_S
