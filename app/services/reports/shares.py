"""The statistics of a window split by key, holder or group, the most costly first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple, get_args

import msgspec

from app.db.key_sums import KeyOwner
from app.db.sums import Sums, sum_up
from app.services.reports.totals import compute_speed, make_totals
from app.yielding import with_pauses

# Dimensions for splitting statistics.
SplitBy = Literal["key", "holder", "group"]
SPLITS: tuple[str, ...] = get_args(SplitBy)

# More holders than fit into a report for people. The others are summed in one entry with this name.
MAX_SHARES = 1_000
OTHER_SHARES = "other"


class Owned(NamedTuple):
    """The keys of a holder or a group to which statistics are limited, and that owner's name."""

    kind: Literal["holder", "group"]
    name: str
    keys: Sequence[str]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one key, holder or group in a window.

    Attributes:
        id, name: of the key, the holder or the group as it is called now. Both are None for keys without a holder, as
            after its deletion, and for holders without a group; the name is None for GATEWAY_API_KEY. The entry of all
            after the first MAX_SHARES has the name OTHER_SHARES and no id.
        keys: how many keys made these requests.
        errors: requests with another outcome than ok.

    Tokens and costs are those of `totals.make_totals`.
    """

    id: str | None
    name: str | None
    keys: int
    requests: int
    errors: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int
    avg_speed_tokens_per_sec: float | None


_Name = tuple[str | None, str | None]


def make_shares(by: SplitBy, sums: Mapping[str, Sums], owners: Mapping[str, KeyOwner]) -> list[Share]:
    """Returns the entries of `split`. Other greenlets run in between: ten thousand keys take a tenth of a second.

    Args:
        by: the dimension of the split.
        sums: key → sums of its requests.
        owners: key → its owner, for keys that are stored.
    """
    parts: dict[_Name, list[Sums]] = defaultdict(list)
    for key, row in with_pauses(sums.items()):
        parts[_find_name(by, key, owners.get(key))].append(row)
    rows = [(name, len(each), sum_up(each)) for name, each in with_pauses(parts.items())]
    rows.sort(key=lambda row: (-row[2].cost_exact - row[2].cost_estimated, -row[2].requests, str(row[0][1])))
    shares = [_make_share(*row) for row in rows[:MAX_SHARES]]
    if others := rows[MAX_SHARES:]:
        total = sum_up(each for _, _, each in others)
        shares.append(_make_share((None, OTHER_SHARES), sum(keys for _, keys, _ in others), total))
    return shares


def _find_name(by: SplitBy, key: str, owner: KeyOwner | None) -> _Name:
    if by == "key":
        return key, None if owner is None else owner.name
    if owner is None:
        return None, None
    return (owner.holder_id, owner.holder) if by == "holder" else (owner.group_id, owner.group)


def _make_share(name: _Name, keys: int, sums: Sums) -> Share:
    return Share(
        id=name[0],
        name=name[1],
        keys=keys,
        requests=sums.requests,
        errors=sums.requests - sums.ok_requests,
        **make_totals(sums),
        avg_speed_tokens_per_sec=compute_speed(sums),
    )
