"""Takes what a request needs of its limits from memory; waiting.py waits if they lack something."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from app.services.limits.permits import RatePot
from app.services.limits.pots import Lot, Pot, Share

# The amounts that a request needs or has used, by Count; None for one that is not known.
Amounts = tuple[int | None, int | None, int, int | None, int]
# A share, what was taken of it, and from what.
Taken = tuple[Share, int, Lot]


def take_at_once(
    shares: Sequence[Share], needs: Amounts, now_s: float, forced: AbstractSet[Pot] = frozenset()
) -> list[Taken] | None:
    """Takes from all pots as much as is needed, or from none.

    No other greenlet runs in between, so none sees an amount that is put back because a later pot has too little.

    Args:
        shares: those of the pots.
        needs: what is needed of each, by what it counts.
        now_s: the time, on the monotonic clock.
        forced: pots to take from also if they lack something.

    Returns:
        The amounts taken, in the order of the pots; None if one of them has too little.

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
    """Returns what a request takes whose need of this pot is not known.

    Raises:
        ValueError: the pot is a budget. Such a request is refused when its ceiling is computed.
    """
    if isinstance(pot, RatePot):
        return int(pot.mean)
    raise ValueError("a budget is asked for an amount that is not known")
