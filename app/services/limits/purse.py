"""Purses: an amount of all pots of a policy, so that each of its requests changes a few numbers and not every pot.

All pots of a policy that count the same are asked for the same, so one number stands for them: a purse holds as much of
each pot as its number says. It is filled while much is left, and put back before anybody looks at the pots: for a draw,
a tick, a refusal or headers. Its contents are taken from the pots like those of a request, so no request gets from a
purse what the pots do not have, whenever it is put back.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.services.limits.permits import RatePot
from app.services.limits.pots import UNBOUNDED, Count, Lot, Share

# What nothing bounds, by Count: small numbers, with which Python reckons faster.
_PLENTY = (1 << 59, 1 << 59, 1 << 29, 1 << 59, 1 << 29)


class Purse:
    """The amounts held for the requests of one policy, and those that ended requests give back.

    Its lots are those that the pots lend from when it is made. Once a pot lends from another one, or must know of each
    request that ends, the purse is closed, and a new one is made.

    Args:
        entry, metered: the shares as a binding has them; none is a budget in requests.
        purses: the others of this worker.

    Attributes:
        until_s: until when requests may take from it, on the monotonic clock; 0 while it is not filled.
        permits, slots: how many requests may still begin; of slots, those of requests that have ended count again.
        fewest_slots: how few slots it had since it was filled.
        cost, tokens, rate_tokens: how much they may still reserve, in 10⁻¹² USD and tokens.
        largest_cost, largest_tokens: the most that one request may reserve of it; larger ones the pots must know.
        unused_permits: of requests that were not sent.
        freed_cost, freed_tokens: what requests reserved that have ended.
        spent_cost, spent_tokens: what they have used.
        freed_rate_tokens: what they reserved and have not used.
        period_ids: the periods of the budgets; nobody may change the list.
        is_listed: whether it will be put back. Before something is given back to a purse that is not listed, `goes_on`
            must be asked.
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

    def goes_on(self) -> bool:
        """Returns whether requests that end may still give back to it; if so, it will be put back later."""
        if any(share.lot is not lot or share.is_watched for share, lot in self.entry + self.metered):
            return False
        self._list()
        return True

    def _list(self) -> None:
        self.is_listed = True
        self._purses.listed[self] = None

    def fill(self, now_s: float) -> bool:
        """Takes from the pots half of what they can spare. Call it when all was put back.

        Returns:
            False if one of them has too little, or is watched; then nothing was taken.
        """
        lumps, largest = list(_PLENTY), [UNBOUNDED] * len(Count)
        until_s = float("inf")
        for share, lot in self.entry + self.metered:
            count, pot = share.count, share.pot
            is_far = pot.is_far() if isinstance(pot, RatePot) else True
            # For slots, `low` is the fewest that there were, which `fewest_slots` goes on to count.
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
        """Puts all that it has back to the pots, also what requests have used that have ended."""
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
        """Returns what a request holds of the pots that took this from the purse, for it to give back to them."""
        if not metered:
            return [(share, 1, lot) for share, lot in self.entry]
        needs = (cost or 0, tokens or 0, 0, rate_tokens or 0)
        return [(share, needs[share.count], lot) for share, lot in self.metered]


class Purses:
    """The purses of one worker.

    Attributes:
        listed: those that have something to put back, which add and remove themselves.
        expires_s: before that, on the monotonic clock, the time of none of them is over.
    """

    def __init__(self) -> None:
        self.listed: dict[Purse, None] = {}
        self.expires_s = float("inf")

    def put_back(self) -> None:
        """Puts back what all of them have. Call it before pots are looked at, after each time that requests ran."""
        for purse in list(self.listed):
            purse.put_back()
        self.expires_s = float("inf")

    def put_back_expired(self, now_s: float) -> None:
        """Puts all back if the time of one is over, so that its pots are renewed without what requests hold no more."""
        if now_s >= self.expires_s:
            self.put_back()
