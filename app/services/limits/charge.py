"""The ceiling of a request, which is its highest possible cost, and its final charge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec


class Ceiling(msgspec.Struct, frozen=True):
    """The most that a request can use at one target.

    Attributes:
        cost: in 10⁻¹² USD; None if the price is not known.
        tokens: prompt and output; None if they have no bound.
        rate_tokens: the estimated prompt plus the requested output; None if the request does not say how much output it
            wants. Then it is assumed to use as much as recent requests.
        fits: (10⁻¹² USD left, tokens left) → the max_tokens with which the request would fit; None if it cannot fit.
    """

    cost: int | None
    tokens: int | None
    rate_tokens: int | None
    fits: Callable[[int, int], int | None]


class Charge(NamedTuple):
    """The use of a request, by Count. A plain tuple of these works too, and costs no call.

    Attributes:
        cost: in 10⁻¹² USD; the ceiling if it is not known.
        tokens: prompt and output; the ceiling if they are not known.
        requests: 1, or 0 if nothing was sent to a provider.
        rate_tokens: the tokens that count for rates; None if not known, and then the reserved number counts.
        slots: 0, because the slots are free again.
    """

    cost: int
    tokens: int
    requests: int
    rate_tokens: int | None
    slots: int = 0


# A Charge or a plain tuple of the same.
Used = tuple[int, int, int, int | None, int]

# The charge of a request that was sent to no provider.
NOTHING: Used = (0, 0, 0, 0, 0)


def merge_ceilings(ceilings: Sequence[Ceiling]) -> Ceiling:
    """Returns a ceiling that has the highest value of all targets in each respect."""
    costs, tokens = [each.cost for each in ceilings], [each.tokens for each in ceilings]
    said = [each.rate_tokens for each in ceilings if each.rate_tokens is not None]
    dearest = max(ceilings, key=lambda each: (each.cost or 0, each.tokens or 0))
    return Ceiling(
        cost=None if None in costs else max(cost for cost in costs if cost is not None),
        tokens=None if None in tokens else max(count for count in tokens if count is not None),
        rate_tokens=max(said, default=None),
        fits=dearest.fits,
    )


def is_at_most(ceiling: Ceiling, other: Ceiling) -> bool:
    """Returns whether `ceiling` fits wherever `other` fits."""
    pairs = (ceiling.cost, other.cost), (ceiling.tokens, other.tokens), (ceiling.rate_tokens, other.rate_tokens)
    return all(own is None or (most is not None and own <= most) for own, most in pairs)
