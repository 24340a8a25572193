"""Takes the amounts that a request needs from memory; waiting.py waits if the limits have too little."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from app.services.limits.permits import RatePot
from app.services.limits.pots import Lot, Pot, Share

# The needs or the use of a request, by Count; None for an amount that is not known.
Amounts = tuple[int | None, int | None, int, int | None, int]
# A share, the amount taken from it, and the lot it was taken from.
Taken = tuple[Share, int, Lot]


def take_at_once(
    shares: Sequence[Share], needs: Amounts, now_s: float, forced: AbstractSet[Pot] = frozenset()
) -> list[Taken] | None:
    """Takes the needed amounts from all pots, or from none.

    No other greenlet runs in between, so none sees amounts that are taken only to be put back because a later pot has
    too little.

    Args:
        shares: the shares of the pots.
        needs: the amount needed of each unit, by Count.
        now_s: the time, on the monotonic clock.
        forced: pots to take from even if they have too little.

    Returns:
        The amounts taken, in the order of the pots; None if a pot has too little.

    Raises:
        ValueError: see `get_unknown_need`.
    """
    taken: list[Taken] = []
    noted: tuple[tuple[Share, int], ...] = ()
    for share in shares:
        need = needs[share.count]
        if need is None:
            need = _find_need(share.pot, taken)
        if need > share.cap:
            need = share.cap
        if now_s >= share.until_s:
            share.pot.renew(now_s)
        lot = share.lot
        free = lot.free - need
        if free < 0 and need and share.pot not in forced:
            _put_back(taken)
            return None
        lot.free = free
        share.taken += need
        taken.append((share, need, lot))
        if free < share.low or need > share.largest:
            noted = (*noted, (share, need))
    for share, need in noted:
        share.pot.note_taken(need)
    return taken


def _find_need(pot: Pot, taken: Sequence[Taken]) -> int:
    try:
        return get_unknown_need(pot)
    except BaseException:
        _put_back(taken)
        raise


def _put_back(taken: Sequence[Taken]) -> None:
    for share, need, lot in taken:
        lot.free += need
        share.taken -= need


def get_unknown_need(pot: Pot) -> int:
    """Returns the amount to take for a request whose need of this pot is not known.

    Raises:
        ValueError: the pot is a budget. A request without a known ceiling is refused before it needs a budget.
    """
    if isinstance(pot, RatePot):
        return int(pot.mean)
    raise ValueError("a budget is asked for an amount that is not known")
