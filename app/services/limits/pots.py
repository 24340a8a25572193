"""Pots: one worker's part of a limit, kept in memory, from which it lends to requests without asking the database.

A pot needs no lock: greenlets switch only where something waits, and nothing here does. drawing.py draws more for it
and gives back what it does not need. Taking and giving back is the same for all pots, so that acquisition.py and
reservation.py do it in one loop each over their shares, without a call for each pot.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum

from app.services.limits.policy import Subject

# A worker that does not state its requests for 30 s holds none, so it must not use what it held before.
_SEEN_S = 25.0
# Larger than any need of a request.
UNBOUNDED = 1 << 100


class Count(IntEnum):
    """The unit that a pot counts, which is its place in the amounts of a request."""

    COST = 0
    TOKENS = 1
    REQUESTS = 2
    RATE_TOKENS = 3
    SLOTS = 4


class Lot:
    """The source that a pot lends from for a time: a period of a budget, permits of half a second, or all slots.

    Attributes:
        id: the period, or the half second; 0 if the database knows none.
        free: how much can be lent; negative where requests took more than the worker has.
        spent: what requests have used that have ended.
    """

    __slots__ = ("free", "id", "spent")

    def __init__(self, id: int = 0, free: int = 0) -> None:
        self.id = id
        self.free = free
        self.spent = 0


class Share:
    """The numbers of a pot that each request reads and changes.

    They are in a class of their own, the same for all pots, because Python reads the attributes of objects of one class
    much faster than those of several.

    Attributes:
        pot: whose numbers they are.
        count: what it counts.
        lot: what it lends from.
        until_s: until when it lends from that, on the monotonic clock; then `Pot.renew` must be called.
        cap: the most that one request reserves; more is cut to this.
        low, largest: `Pot.note_taken` is called when less than `low` is free, or a request needs more than `largest`.
        is_watched: whether `Pot.note_settled` is called after each request, and not only after those that give back to
            an earlier lot or leave less than nothing free.
        taken: what requests have taken, since a time of the pot's own.
        used_s: when a request last took something, as of the last tick.
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
    """A limit, as one worker has it in memory.

    Attributes:
        subject: whose limit it is.
        share: the numbers that requests change.
        refused_need, refused_until_s: a need of at least this much is refused until then, on the monotonic clock.
        refusals: how many draws found less than the least need.
        sleepers: set when a request gives something back.
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
        """Replaces what the pot lends from, because its time is over."""

    @abstractmethod
    def note_taken(self, need: int) -> None:
        """Notes that a request took so much that `low` or `largest` were passed."""

    @abstractmethod
    def note_settled(self, lot: Lot) -> None:
        """Notes that a request has given back to `lot`."""

    def add_sleeper(self, sleeper: threading.Event) -> None:
        """Sets `sleeper` when a request gives something back."""
        self.sleepers.add(sleeper)
        self.share.is_watched = True

    def wake_sleepers(self) -> None:
        """Makes the requests that wait for something to be given back look again."""
        sleepers, self.sleepers = self.sleepers, set()
        for sleeper in sleepers:
            sleeper.set()

    def lacks(self, need: int, now_s: float) -> bool:
        """Returns whether the pot has less than `need`. A need of 0 always passes, even when more than all is used."""
        if now_s >= self.share.until_s:
            self.renew(now_s)
        return need > self.share.lot.free and need > 0

    def expect(self, need: int) -> None:
        """Notes that a request waits for this much."""
        self.share.used_s = time.monotonic()

    def is_refused(self, need: int, now_s: float) -> bool:
        """Returns whether as much was refused a moment ago."""
        return need >= self.refused_need and now_s < self.refused_until_s

    def remember_refusal(self, need: int, until_s: float) -> None:
        """Refuses needs of at least as much until `until_s`."""
        self.refused_need, self.refused_until_s = need, until_s


class SlotPot(Pot):
    """How many requests of a subject this worker may serve at once, and how many it serves.

    Attributes:
        most: the limit of all workers.
        held: how many it may serve.
        is_exact: whether little is left, so that the worker keeps nothing.
        peak: the most that it served since the last tick.
        workers: how many workers live, as the database last said.
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
        """How many requests it serves."""
        return self.held - self.share.lot.free

    def renew(self, now_s: float) -> None:
        self.keep_used()
        self.share.until_s = float("inf")

    def keep_used(self) -> None:
        """Lends no more than requests hold already."""
        self._hold(min(self.held, self.used))

    def _hold(self, held: int) -> None:
        more, self.held = held - self.held, held
        self.share.lot.free += more
        self.share.low += more

    def is_within_share(self, need: int) -> bool:
        """Returns whether this worker's share has room, while the database is away."""
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
        """Begins to look for the peak of the next tick."""
        self.share.low, self.peak = self.share.lot.free, self.used

    def get_spare(self) -> int:
        """Returns how many more than are used the worker should hold."""
        return 0 if self.is_exact else max(self.peak - self.used, 0)

    def note_answer(self, held: int, room: int, workers: int, asked_s: float) -> None:
        """Notes what the database says: what this worker may serve, and what is left for all."""
        self._hold(held)
        self.workers = workers
        self.is_exact = room < self.most // 4
        self.share.is_watched = self.is_exact or bool(self.sleepers)
        self.share.until_s = asked_s + _SEEN_S
