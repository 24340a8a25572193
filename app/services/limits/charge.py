"""The ceiling of a request, which is the most that it can cost, and its charge in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec


class Ceiling(msgspec.Struct, frozen=True):
    """The most that a request can use at one target.

    Attributes:
        cost: in 10⁻¹² USD; None if the price is not known.
        tokens: prompt and output; None if they have no bound.
        rate_tokens: the estimate of the prompt and the output that was asked for; None if the request does not say how
            much output it wants. Then it is taken to use as much as others did lately.
        fits: (10⁻¹² USD left, tokens left) → the max_tokens with which the request would fit; None if with none.
    """

    cost: int | None
    tokens: int | None
    rate_tokens: int | None
    fits: Callable[[int, int], int | None]


class Charge(NamedTuple):
    """The use of a request, by Count. A plain tuple of the same does too, and is made without a call.

    Attributes:
        cost: in 10⁻¹² USD; the ceiling if it is not known.
        tokens: prompt and output; the ceiling if they are not known.
        requests: 1, or 0 if nothing was sent to a provider.
        rate_tokens: what counts for the rate of tokens; None if it is not known, then what was reserved.
        slots: 0, because its slots are free again.
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
    """Returns a ceiling that is that of the dearest target in each respect."""
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
    """Returns whether whatever has room for `other` has room for `ceiling`."""
    pairs = (ceiling.cost, other.cost), (ceiling.tokens, other.tokens), (ceiling.rate_tokens, other.rate_tokens)
    return all(own is None or (most is not None and own <= most) for own, most in pairs)
