"""Permits of a rate: the number of requests or tokens that one worker may begin in the next half second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from app.db.limit_tables import RATE_SLOTS
from app.services.limits.policy import Subject
from app.services.limits.pots import Count, Lot, Pot

# How long a permit can be used after its draw; see RATE_SLOTS.
PERMIT_S = 0.5
# After this time, the next request that takes permits also causes the next draw, so that no request has to wait.
_SOON_S = 0.35
# Draws ahead only while at least 1/_SOON_SHARE of the rate is left; below that, other workers may need it more.
_SOON_SHARE = 4
# The assumed tokens of a request that does not say how many it needs, until some have ended.
_FIRST_MEAN = 256
_MEAN_WEIGHT = 0.1
# From this many permits on, response headers may be reused, and requests may share a purse.
_FAR = 1_000
# A draw takes at most this many times the use since the last one, because a single burst is not yet a rate.
_GROWTH = 4


class RatePot(Pot):
    """A rate of a subject. Its lots are the grants of half a second; its share counts the use since the last draw.

    Args:
        subject: the subject of the rate.
        kind: its unit, "requests" or "tokens".
        most: the limit per minute.
        wake: makes the drawing thread check this pot soon.

    Attributes:
        kind, most: as above.
        is_due: whether the next permits are to be drawn even without a waiting request.
        mean: the mean use, in tokens, of recent requests that did not say how much output they wanted.
        debt: the use beyond the granted permits; reported with the next draw.
        returned: half second → the number of its permits that were not used.
        room: the permits left for all workers, by the database's last answer.
        workers: the number of live workers, by the database's last answer.
    """

    __slots__ = (
        "_drawn_s", "_ends_s", "_local", "_wake", "debt", "is_due", "kind", "mean", "most", "returned", "room",
        "workers",
    )  # fmt: skip

    def __init__(
        self,
        subject: Subject,
        kind: Literal["requests", "tokens"],
        most: int,
        wake: Callable[[Pot], None] = lambda pot: None,
    ) -> None:
        super().__init__(subject, Count.REQUESTS if kind == "requests" else Count.RATE_TOKENS, Lot())
        self.kind, self.room = kind, most
        self.set_most(most)
        self.mean = float(_FIRST_MEAN)
        self.debt = 0
        self.returned: dict[int, int] = {}
        self.workers = 1
        self._drawn_s = self._ends_s = 0.0
        self._wake = wake
        self.is_due = False
        self._local: deque[tuple[float, int]] = deque()

    def set_most(self, most: int) -> None:
        """Sets the limit. A request for more tokens than that takes all of it, or it could never be served."""
        self.most = most
        if self.kind == "tokens":
            self.share.cap = most

    def renew(self, now_s: float) -> None:
        """Ends expired permits; shortly before they expire, causes the next draw."""
        if now_s >= self._ends_s:
            self._replace(Lot(), float("inf"), float("inf"))
            return
        self.share.until_s = self._ends_s
        if self.room >= self.most // _SOON_SHARE:
            self.is_due = True
            self._wake(self)

    def _replace(self, lot: Lot, until_s: float, ends_s: float) -> None:
        """Lends from another lot until `ends_s`; `renew` is next called at `until_s`."""
        before, self.share.lot = self.share.lot, lot
        self.share.until_s, self._ends_s, self.is_due = until_s, ends_s, False
        self.note_settled(before)

    def note_taken(self, need: int) -> None:
        pass

    def note_settled(self, lot: Lot) -> None:
        """Returns unused permits of an expired lot; use beyond a lot becomes a debt."""
        if self.sleepers:
            self.wake_sleepers()
        self.share.is_watched = False
        if lot.free < 0:
            self.debt -= lot.free
            lot.free = 0
        elif lot is not self.share.lot and lot.free:
            if lot.id:
                self.returned[lot.id] = self.returned.get(lot.id, 0) + lot.free
            lot.free = 0

    def note_use(self, tokens: int) -> None:
        """Updates the mean with the use of a request that did not say how much output it wanted."""
        self.mean += _MEAN_WEIGHT * (tokens - self.mean)

    def add(self, slot: int, count: int, asked_s: float) -> None:
        """Lends from permits that were granted in this half second to a draw sent at `asked_s`."""
        if count:
            self.share.taken, self._drawn_s = 0, asked_s
            self._replace(Lot(slot, count), asked_s + _SOON_S, asked_s + PERMIT_S)

    def count_left(self) -> int:
        """Returns how many permits are left for all workers, as far as this worker knows."""
        return min(max(self.room + self.share.lot.free, 0), self.most)

    def is_far(self) -> bool:
        """Returns whether so much is left that a few requests make no difference."""
        return self.count_left() >= _FAR

    def get_ahead(self, now_s: float) -> int:
        """Returns the permits that this worker uses in half a second, estimated from its use since the last draw."""
        elapsed_s = max(now_s - self._drawn_s, 0.001)
        return min(int(self.share.taken * PERMIT_S / elapsed_s), _GROWTH * self.share.taken)

    def take_return(self, now_s: float) -> tuple[dict[int, int], int]:
        """Returns the unused permits and the debt, and forgets both; if the draw is lost, they count as used."""
        if now_s >= self._ends_s:
            self.renew(now_s)
        returned, debt = self.returned, self.debt
        self.returned, self.debt = {}, 0
        return returned, debt

    def grant_locally(self, need: int, now_s: float) -> bool:
        """Adds permits from this worker's share of the rate during an outage; returns whether the share sufficed."""
        local = self._local
        while local and local[0][0] <= now_s - RATE_SLOTS / 2:
            local.popleft()
        share = max(self.most // max(self.workers, 1), 1)
        if sum(count for _, count in local) + need > max(share, need if not local else 0):
            return False
        local.append((now_s, need))
        self._replace(Lot(0, need), now_s + PERMIT_S, now_s + PERMIT_S)
        return True

    def get_local_wait_s(self, now_s: float) -> float:
        """Returns the seconds until part of this worker's share is free again."""
        return max(self._local[0][0] + RATE_SLOTS / 2 - now_s, 0.1) if self._local else 1.0
