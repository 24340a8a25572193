"""What one worker has in memory of a limit, and of which it lends to requests without asking the database.

A pot needs no lock: greenlets switch only where something waits, and nothing here does. drawing.py draws more for it
and gives back what it does not need.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from app.services.limits.charge import Charge
from app.services.limits.policy import Subject

# A worker that does not state its requests for 30 s holds none, so it must not use what it held before.
_SEEN_S = 25.0


class Pot(ABC):
    """A limit, as one worker has it in memory.

    Attributes:
        subject: whose limit it is.
        refused_need, refused_until_s: a need of at least this much is refused until then, on the monotonic clock.
        refusals: how many draws found less than the least need.
        used_s: when a request last took something.
        sleepers: set when a request gives something back.
    """

    __slots__ = ("refusals", "refused_need", "refused_until_s", "sleepers", "subject", "used_s")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.refused_need = 0
        self.refused_until_s = 0.0
        self.refusals = 0
        self.used_s = time.monotonic()
        self.sleepers: set[threading.Event] = set()

    @abstractmethod
    def lacks(self, need: int, now_s: float) -> bool:
        """Returns whether the pot has less than `need`."""

    @abstractmethod
    def take(self, need: int, now_s: float) -> Any:
        """Lends `need`, whether it is there or not, and returns a receipt for `settle`."""

    @abstractmethod
    def get_used(self, charge: Charge, need: int) -> int:
        """Returns how much of `need` a request has used for good."""

    @abstractmethod
    def settle(self, receipt: Any, need: int, used: int) -> None:
        """Takes back what `take` lent, except `used` of it; that may be more than was lent."""

    def expect(self, need: int) -> None:
        """Notes that a request waits for this much."""
        self.used_s = time.monotonic()

    def wake_sleepers(self) -> None:
        """Makes the requests look again that wait for something to be given back."""
        sleepers, self.sleepers = self.sleepers, set()
        for sleeper in sleepers:
            sleeper.set()

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
        held: how many this worker may serve.
        used: how many it serves.
        peak: the most that it served since the last tick.
        workers: how many workers live, as the database last said.
    """

    __slots__ = ("_seen_until_s", "_wake", "held", "is_exact", "most", "peak", "used", "workers")

    def __init__(self, subject: Subject, most: int, wake: Callable[[Pot], None]) -> None:
        super().__init__(subject)
        self.most = most
        self.held = self.used = self.peak = 0
        self.workers = 1
        self.is_exact = True
        self._seen_until_s = 0.0
        self._wake = wake

    def lacks(self, need: int, now_s: float) -> bool:
        return self.used + need > self.held or now_s > self._seen_until_s

    def is_within_share(self, need: int) -> bool:
        """Returns whether this worker's share has room, while the database is away."""
        return self.used + need <= max(self.most // max(self.workers, 1), 1)

    def take(self, need: int, now_s: float) -> None:
        self.used += need
        self.used_s = now_s
        if self.used > self.peak:
            self.peak = self.used

    def get_used(self, charge: Charge, need: int) -> int:
        return 0

    def settle(self, receipt: None, need: int, used: int) -> None:
        self.used += used - need
        if self.sleepers:
            self.wake_sleepers()
        if self.is_exact:
            self._wake(self)

    def get_spare(self) -> int:
        """Returns how many more than are used the worker should hold."""
        return 0 if self.is_exact else max(self.peak - self.used, 0)

    def note_answer(self, held: int, room: int, workers: int, asked_s: float) -> None:
        """Notes what the database says: what this worker may serve, and what is left for all."""
        self.held, self.workers = held, workers
        self.is_exact = room < self.most // 4
        self._seen_until_s = asked_s + _SEEN_S
