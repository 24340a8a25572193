"""Permits of a rate: the requests or tokens that one worker may begin within the next half second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from app.db.limit_tables import RATE_SLOTS
from app.services.limits.policy import Subject
from app.services.limits.pots import Count, Lot, Pot

# How long after the draw a permit may be used; see RATE_SLOTS.
PERMIT_S = 0.5
# After this time the next permits are drawn if a request still takes some, so that no request has to wait for them.
_SOON_S = 0.35
# Only while at least 1/_SOON_SHARE of the rate is left; otherwise other workers may need it more.
_SOON_SHARE = 4
# The tokens that a request is assumed to use if it does not say how many, until some have ended.
_FIRST_MEAN = 256
_MEAN_WEIGHT = 0.1
# From this many permits on, headers need not be made for each response, and requests may share a purse.
_FAR = 1_000
# A draw takes at most this many times what was used since the last one: some requests at once are no rate yet.
_GROWTH = 4


class RatePot(Pot):
    """A rate of a subject. Its lots are what was granted in a half second; its share counts what was taken since then.

    Args:
        subject: whose rate it is.
        kind: what it counts.
        most: how many a minute.
        wake: makes the drawing thread look at this pot soon.

    Attributes:
        kind, most: as above.
        is_due: whether the next permits are to be drawn although no request waits for them.
        mean: how many tokens a request used lately that did not say how much output it wants.
        debt: how many were used beyond what was granted; the next draw states it.
        returned: half second → how many that were granted in it were not used.
        room: how many are left for all workers, as the database last said.
        workers: how many workers live, as the database last said.
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
        """Ends the permits whose time is over; shortly before, makes the next ones be drawn."""
        if now_s >= self._ends_s:
            self._replace(Lot(), float("inf"), float("inf"))
            return
        self.share.until_s = self._ends_s
        if self.room >= self.most // _SOON_SHARE:
            self.is_due = True
            self._wake(self)

    def _replace(self, lot: Lot, until_s: float, ends_s: float) -> None:
        """Lends from another lot until `ends_s`, and calls `renew` at `until_s` for the first time."""
        before, self.share.lot = self.share.lot, lot
        self.share.until_s, self._ends_s, self.is_due = until_s, ends_s, False
        self.note_settled(before)

    def note_taken(self, need: int) -> None:
        pass

    def note_settled(self, lot: Lot) -> None:
        """Returns what is not used of permits whose time is over; what was used beyond permits is a debt."""
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
        """Notes what a request has used that did not say how much output it wants."""
        self.mean += _MEAN_WEIGHT * (tokens - self.mean)

    def add(self, slot: int, count: int, asked_s: float) -> None:
        """Lends from permits that were granted in this half second, to a draw sent at `asked_s`."""
        if count:
            self.share.taken, self._drawn_s = 0, asked_s
            self._replace(Lot(slot, count), asked_s + _SOON_S, asked_s + PERMIT_S)

    def count_left(self) -> int:
        """Returns how many permits are left for all workers, as far as this one knows."""
        return min(max(self.room + self.share.lot.free, 0), self.most)

    def is_far(self) -> bool:
        """Returns whether so much is left that a few requests make no difference."""
        return self.count_left() >= _FAR

    def get_ahead(self, now_s: float) -> int:
        """Returns how many permits this worker uses in half a second, as far as it knows since its last draw."""
        elapsed_s = max(now_s - self._drawn_s, 0.001)
        return min(int(self.share.taken * PERMIT_S / elapsed_s), _GROWTH * self.share.taken)

    def take_return(self, now_s: float) -> tuple[dict[int, int], int]:
        """Returns what is to be returned and the debt, and forgets both: lost in a draw, they count as used."""
        if now_s >= self._ends_s:
            self.renew(now_s)
        returned, debt = self.returned, self.debt
        self.returned, self.debt = {}, 0
        return returned, debt

    def grant_locally(self, need: int, now_s: float) -> bool:
        """Adds permits of this worker's share of the rate while the database is away; returns whether it sufficed."""
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
        """Returns the seconds until something of this worker's share comes back."""
        return max(self._local[0][0] + RATE_SLOTS / 2 - now_s, 0.1) if self._local else 1.0
