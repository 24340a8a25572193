"""What one worker has in memory of a limit, and of which it lends to requests without asking the database.

A pot needs no lock: greenlets switch only where something waits, and nothing here does. drawing.py draws more for it
and gives back what it does not need. What each request takes and gives back is the same for all pots, so that
acquisition.py and reservation.py do it in one loop each, without a call for each pot.
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
# More than any request needs.
UNBOUNDED = 1 << 100


class Count(IntEnum):
    """What a pot counts: the place in the amounts of a request, which are a tuple."""

    COST = 0
    TOKENS = 1
    REQUESTS = 2
    RATE_TOKENS = 3
    SLOTS = 4


class Lot:
    """What a pot lends from at the moment.

    Attributes:
        free: how much can be lent; negative where requests took more than the worker has.
        lent: what requests hold.
    """

    __slots__ = ("free", "lent")

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.lent = 0


class Pot(ABC):
    """A limit, as one worker has it in memory.

    Attributes:
        subject: whose limit it is.
        count: what it counts.
        current: what it lends from.
        until_s: until when it lends from that, on the monotonic clock; then `renew` must be called.
        cap: the most that one request reserves; more is cut to this.
        low, largest: `note_taken` is called when less than `low` is free, or a request needs more than `largest`.
        is_exact: whether `note_settled` is called after each request.
        taken: what requests have taken, since a time of the pot's own.
        refused_need, refused_until_s: a need of at least this much is refused until then, on the monotonic clock.
        refusals: how many draws found less than the least need.
        used_s: when a request last took something.
        sleepers: set when a request gives something back.
    """

    __slots__ = (
        "cap",
        "count",
        "current",
        "is_exact",
        "largest",
        "low",
        "refusals",
        "refused_need",
        "refused_until_s",
        "sleepers",
        "subject",
        "taken",
        "until_s",
        "used_s",
    )
    current: Lot

    def __init__(self, subject: Subject, count: Count) -> None:
        self.subject = subject
        self.count = int(count)
        self.until_s = float("inf")
        self.cap = self.largest = UNBOUNDED
        self.low = self.taken = 0
        self.is_exact = False
        self.refused_need = 0
        self.refused_until_s = 0.0
        self.refusals = 0
        self.used_s = time.monotonic()
        self.sleepers: set[threading.Event] = set()

    @abstractmethod
    def renew(self, now_s: float) -> None:
        """Replaces what the pot lends from, because its time is over."""

    @abstractmethod
    def note_taken(self, need: int) -> None:
        """Notes that a request took so much that `low` or `largest` were passed."""

    def note_settled(self, lot: Lot) -> None:
        """Notes that a request has given back to `lot`: each in exact mode, and those that others may wait for."""
        sleepers, self.sleepers = self.sleepers, set()
        for sleeper in sleepers:
            sleeper.set()

    def lacks(self, need: int, now_s: float) -> bool:
        """Returns whether the pot has less than `need`. What needs nothing passes, also when more than all is used."""
        if now_s >= self.until_s:
            self.renew(now_s)
        return need > self.current.free and need > 0

    def expect(self, need: int) -> None:
        """Notes that a request waits for this much."""
        self.used_s = time.monotonic()

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
        peak: the most that it served since the last tick.
        workers: how many workers live, as the database last said.
    """

    __slots__ = ("_wake", "most", "peak", "workers")

    def __init__(self, subject: Subject, most: int, wake: Callable[[Pot], None]) -> None:
        super().__init__(subject, Count.SLOTS)
        self.current = Lot()
        self.most = most
        self.peak = 0
        self.workers = 1
        self.is_exact = True
        self.until_s = 0.0
        self._wake = wake

    @property
    def used(self) -> int:
        """How many requests it serves."""
        return self.current.lent

    @property
    def held(self) -> int:
        """How many it may serve."""
        return self.current.free + self.current.lent

    def renew(self, now_s: float) -> None:
        self.keep_used()
        self.until_s = float("inf")

    def keep_used(self) -> None:
        """Lends no more than is lent already."""
        self._hold(min(self.held, self.used))

    def _hold(self, held: int) -> None:
        more = held - self.held
        self.current.free += more
        self.low += more

    def is_within_share(self, need: int) -> bool:
        """Returns whether this worker's share has room, while the database is away."""
        return self.used + need <= max(self.most // max(self.workers, 1), 1)

    def note_taken(self, need: int) -> None:
        self.low = self.current.free
        self.peak = max(self.peak, self.used)

    def note_settled(self, lot: Lot) -> None:
        if self.sleepers:
            super().note_settled(lot)
        if self.is_exact:
            self._wake(self)

    def count_tick(self) -> None:
        """Begins to look for the peak of the next tick."""
        self.low, self.peak = self.current.free, self.used

    def get_spare(self) -> int:
        """Returns how many more than are used the worker should hold."""
        return 0 if self.is_exact else max(self.peak - self.used, 0)

    def note_answer(self, held: int, room: int, workers: int, asked_s: float) -> None:
        """Notes what the database says: what this worker may serve, and what is left for all."""
        self._hold(held)
        self.workers = workers
        self.is_exact = room < self.most // 4
        self.until_s = asked_s + _SEEN_S
