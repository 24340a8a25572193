"""Permits of a rate: the requests or tokens that one worker may begin within the next half second."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

from app.db.limit_tables import RATE_SLOTS
from app.services.limits.charge import Charge
from app.services.limits.policy import Subject
from app.services.limits.pots import Pot

# How long after the draw a permit may be used; see RATE_SLOTS.
PERMIT_S = 0.5
# What a request is taken to use that does not say how much, until some have ended.
_FIRST_MEAN = 256
_MEAN_WEIGHT = 0.1

# (half second in which they were granted, how many), for each batch that a request took from; 0 is none that the
# database knows.
Receipt = tuple[tuple[int, int], ...]


class RatePot(Pot):
    """A rate of a subject.

    Attributes:
        kind: what it counts.
        most: how many a minute.
        mean: how many tokens a request used lately.
        debt: how many were used beyond what was granted; the next draw states it.
        returned: half second → how many that were granted in it were not used.
        room: how many are left for all workers, as the database last said.
        workers: how many workers live, as the database last said.
    """

    __slots__ = (
        "_batches",
        "_expires_s",
        "_free",
        "_local",
        "_taken",
        "debt",
        "kind",
        "mean",
        "most",
        "rate",
        "returned",
        "room",
        "workers",
    )

    def __init__(self, subject: Subject, kind: Literal["requests", "tokens"], most: int) -> None:
        super().__init__(subject)
        self.kind, self.most, self.room = kind, most, most
        self.mean = float(_FIRST_MEAN)
        self.debt = 0
        self.returned: dict[int, int] = {}
        self.workers = 1
        self.rate = 0.0
        # Of each draw: [half second, permits left, when they expire on the monotonic clock], the oldest first.
        self._batches: deque[list[Any]] = deque()
        self._free = 0
        self._expires_s = float("inf")
        self._local: deque[tuple[float, int]] = deque()
        self._taken = 0

    def lacks(self, need: int, now_s: float) -> bool:
        if now_s >= self._expires_s:
            self._expire(now_s)
        return need > self._free and need > 0

    def _expire(self, now_s: float) -> None:
        batches = self._batches
        while batches and batches[0][2] <= now_s:
            slot, left, _ = batches.popleft()
            self._free -= left
            self.returned[slot] = self.returned.get(slot, 0) + left
        self._expires_s = batches[0][2] if batches else float("inf")

    def take(self, need: int, now_s: float) -> Receipt:
        self.used_s = now_s
        self._taken += need
        batches = self._batches
        if batches and need < batches[0][1]:
            batch = batches[0]
            batch[1] -= need
            self._free -= need
            return ((batch[0], need),)
        return tuple(self._take_from_several(need))

    def _take_from_several(self, need: int) -> Iterator[tuple[int, int]]:
        batches = self._batches
        while need and batches:
            batch = batches[0]
            part = min(need, batch[1])
            batch[1] -= part
            self._free -= part
            need -= part
            yield batch[0], part
            if not batch[1]:
                batches.popleft()
        self._expires_s = batches[0][2] if batches else float("inf")
        if need:
            self.debt += need
            yield 0, need

    def get_used(self, charge: Charge, need: int) -> int:
        if self.kind == "requests":
            return charge.requests
        if charge.rate_tokens is None:
            return need
        if charge.requests:
            self.mean += _MEAN_WEIGHT * (charge.rate_tokens - self.mean)
        return charge.rate_tokens

    def settle(self, receipt: Receipt, need: int, used: int) -> None:
        if used >= need:
            self.debt += used - need
            return
        unused = need - used
        for slot, count in reversed(receipt):
            part = min(unused, count)
            unused -= part
            if slot == 0:
                self.debt -= min(part, self.debt)
            elif part:
                self.returned[slot] = self.returned.get(slot, 0) + part

    def add(self, slot: int, count: int, asked_s: float) -> None:
        """Adds permits that were granted in this half second, to a draw sent at `asked_s` on the monotonic clock."""
        if count:
            self._batches.append([slot, count, asked_s + PERMIT_S])
            self._free += count
            self._expires_s = self._batches[0][2]

    def count_left(self) -> int:
        """Returns how many permits are left for all workers, as far as this one knows."""
        return min(max(self.room + self._free, 0), self.most)

    def count_tick(self, seconds: float) -> None:
        """Updates the mean rate of what requests take. Call it every few `seconds`."""
        self.rate += 0.5 * (self._taken / seconds - self.rate)
        self._taken = 0

    def get_ahead(self) -> int:
        """Returns how many permits this worker uses in half a second."""
        return int(self.rate * PERMIT_S)

    def take_return(self) -> tuple[dict[int, int], int]:
        """Returns what is to be returned and the debt, and forgets both: lost in a draw, they count as used."""
        returned, debt = self.returned, self.debt
        self.returned, self.debt = {}, 0
        return returned, debt

    def take_locally(self, need: int, now_s: float) -> bool:
        """Takes from this worker's share of the rate while the database is away; returns whether it sufficed."""
        local = self._local
        while local and local[0][0] <= now_s - RATE_SLOTS / 2:
            local.popleft()
        share = max(self.most // max(self.workers, 1), 1)
        if sum(count for _, count in local) + need > max(share, need if not local else 0):
            return False
        local.append((now_s, need))
        return True

    def get_local_wait_s(self, now_s: float) -> float:
        """Returns the seconds until something of this worker's share comes back."""
        return max(self._local[0][0] + RATE_SLOTS / 2 - now_s, 0.1) if self._local else 1.0
