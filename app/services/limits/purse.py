"""Purses: equal amounts of all pots of a policy, so that a request changes a few numbers instead of every pot.

A request asks all pots of a policy with the same unit for the same amount, so a purse has one number per unit, which
stands for that amount of each pot. A purse is filled while much is left, and put back before the pots are read: for a
draw, a tick, a refusal or headers. Its contents are taken from the pots like those of a request. So no request gets
more from a purse than the pots have, whenever it is put back.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.services.limits.permits import RatePot
from app.services.limits.pots import UNBOUNDED, Count, Lot, Share

# Amounts for units without a bound, by Count. Python computes faster with small numbers.
_PLENTY = (1 << 59, 1 << 59, 1 << 29, 1 << 59, 1 << 29)


class Purse:
    """The amounts held for the requests of one policy, and the amounts that ended requests give back.

    Its lots are the current lots of the pots when it is made. Once a pot lends from another lot, or must know of each
    request that ends, the purse is closed, and a new one is made.

    Args:
        entry, metered: the shares of a binding; none is a budget in requests.
        purses: all purses of this worker.

    Attributes:
        until_s: the time until which requests may take from it, on the monotonic clock; 0 while it is not filled.
        permits, slots: how many requests may still begin; the slots of ended requests are added again.
        fewest_slots: the lowest number of slots since it was filled.
        cost, tokens, rate_tokens: how much requests may still reserve, in 10⁻¹² USD and tokens.
        largest_cost, largest_tokens: the most that one request may reserve; the pots must know of larger requests.
        unused_permits: permits of requests that were not sent.
        freed_cost, freed_tokens: the reservations of ended requests.
        spent_cost, spent_tokens: the use of ended requests.
        freed_rate_tokens: their reserved tokens that were not used.
        period_ids: the ids of the budget periods; requests share the list, so it must not change.
        is_listed: whether it will be put back. Before anything is given back to a purse that is not listed, call
            `list_if_current`.
        entry, metered: the shares and their lots.
    """

    __slots__ = (
        "_lumps", "_purses", "cost", "entry", "fewest_slots", "freed_cost", "freed_rate_tokens", "freed_tokens",
        "is_listed", "largest_cost", "largest_tokens", "metered", "period_ids", "permits", "rate_tokens",
        "slots", "spent_cost", "spent_tokens", "tokens", "unused_permits", "until_s",
    )  # fmt: skip

    def __init__(self, entry: Sequence[Share], metered: Sequence[Share], purses: Purses) -> None:
        self.entry = [(share, share.lot) for share in entry]
        self.metered = [(share, share.lot) for share in metered]
        self.period_ids = [share.lot.id for share in metered if share.count in (Count.COST, Count.TOKENS)]
        self.is_listed, self._purses = False, purses
        self.until_s = 0.0
        self.permits = self.slots = self.fewest_slots = self.cost = self.tokens = self.rate_tokens = 0
        self.unused_permits = self.freed_cost = self.freed_tokens = self.freed_rate_tokens = 0
        self.spent_cost = self.spent_tokens = self.largest_cost = self.largest_tokens = 0
        self._lumps = [0] * len(Count)

    def list_if_current(self) -> bool:
        """Lists it to be put back later if ended requests may still give back to it; returns whether they may."""
        if any(share.lot is not lot or share.is_watched for share, lot in self.entry + self.metered):
            return False
        self._list()
        return True

    def _list(self) -> None:
        self.is_listed = True
        self._purses.listed[self] = None

    def fill(self, now_s: float) -> bool:
        """Takes from the pots half of their reserve. Call it after everything was put back.

        Returns:
            False if a pot has too little, or is watched; then nothing was taken.
        """
        lumps, largest = list(_PLENTY), [UNBOUNDED] * len(Count)
        until_s = float("inf")
        for share, lot in self.entry + self.metered:
            count, pot = share.count, share.pot
            is_far = pot.is_far() if isinstance(pot, RatePot) else True
            # The `low` of slots is the lowest number of free ones; `fewest_slots` continues to count it.
            spare = lot.free - (0 if count == Count.SLOTS else share.low)
            if not is_far or spare <= 0 or share.is_watched or share.cap == 0 or lot is not share.lot:
                return False
            lumps[count] = min(lumps[count], (spare + 1) // 2)
            largest[count] = min(largest[count], share.largest)
            until_s = min(until_s, share.until_s)
        if now_s >= until_s:
            return False
        for share, lot in self.entry + self.metered:
            lot.free -= lumps[share.count]
        self.cost, self.tokens, self.permits, self.rate_tokens, _ = self._lumps = lumps
        self.slots += lumps[Count.SLOTS]
        self.fewest_slots = self.slots
        self.largest_cost, self.largest_tokens = largest[Count.COST], largest[Count.TOKENS]
        self.until_s = until_s
        self._purses.expires_s = min(self._purses.expires_s, until_s)
        self._list()
        return True

    def put_back(self) -> None:
        """Puts all its contents back into the pots, with the use of ended requests."""
        lumps, left = self._lumps, (self.cost, self.tokens, self.permits, self.rate_tokens, self.slots)
        freed = (self.freed_cost, self.freed_tokens, self.unused_permits, self.freed_rate_tokens, 0)
        spent = (self.spent_cost, self.spent_tokens, 0, 0, 0)
        unused_slots, self.until_s, self.is_listed = self.fewest_slots, 0.0, False
        self._purses.listed.pop(self, None)
        self.permits = self.slots = self.fewest_slots = self.cost = self.tokens = self.rate_tokens = 0
        self.unused_permits = self.freed_cost = self.freed_tokens = self.freed_rate_tokens = 0
        self.spent_cost = self.spent_tokens = 0
        self._lumps = [0] * len(Count)
        for share, lot in self.entry + self.metered:
            count, pot = share.count, share.pot
            if count == Count.SLOTS and lot.free + unused_slots < share.low:
                lot.free += unused_slots
                pot.note_taken(0)
                lot.free -= unused_slots
            lot.free += left[count] + freed[count] - spent[count]
            lot.spent += spent[count]
            share.taken += lumps[count] - left[count]
            if lot is not share.lot or share.is_watched or lot.free < 0:
                pot.note_settled(lot)

    def lift(
        self, cost: int | None, tokens: int | None, rate_tokens: int | None, *, metered: bool
    ) -> list[tuple[Share, int, Lot]]:
        """Returns the amounts that a request took from the purse as amounts of pots, to be given back to these."""
        if not metered:
            return [(share, 1, lot) for share, lot in self.entry]
        needs = (cost or 0, tokens or 0, 0, rate_tokens or 0)
        return [(share, needs[share.count], lot) for share, lot in self.metered]


class Purses:
    """The purses of one worker.

    Attributes:
        listed: the purses that have something to put back; they add and remove themselves.
        expires_s: no purse expires before this time, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.listed: dict[Purse, None] = {}
        self.expires_s = float("inf")

    def put_back(self) -> None:
        """Puts back the contents of all. Call it before pots are read, again after any time in which requests ran."""
        for purse in list(self.listed):
            purse.put_back()
        self.expires_s = float("inf")

    def put_back_expired(self, now_s: float) -> None:
        """Puts back all contents if a purse has expired, so that pots are renewed without amounts of ended requests."""
        if now_s >= self.expires_s:
            self.put_back()
