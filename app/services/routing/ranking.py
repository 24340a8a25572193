"""Orders the targets of a route: by price, latency or throughput, by weights, and for a conversation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from app.errors import BadRequest
from app.services.endpoints import MaxPrice, Sort
from app.services.pricing import Price, get_price, to_plain_text
from app.services.quality import get_quality
from app.services.routing.affinity import draw
from app.services.routing.route import Group, Route
from app.services.routing.target import Target

# How long an order is kept, in seconds. Prices and measurements change more slowly.
RANKED_S = 1.0

# Prompt tokens per output token in a price for comparison. Benchmarks of models use the same blend.
PROMPT_SHARE = 3

# A conversation stays at its target while that is at most this much worse than the best. Prices are exact; latency and
# throughput are measured, and would otherwise move it back and forth.
AS_GOOD: Mapping[Sort, float] = {"price": 1.0, "latency": 1.5, "throughput": 1.5}

_PER_MILLION = 1_000_000

Ranked = Sequence[Sequence[tuple[float, Target]]]  # By group: (sort value, target), best first.


def order_targets(route: Route, now_s: float, seed: bytes | None) -> list[Target]:
    """Returns the targets of a route in the order in which they should be tried.

    Args:
        route: the route.
        now_s: the time on the monotonic clock.
        seed: the seed of the request's conversation (see affinity.py); None without one.

    Raises:
        BadRequest: no target fits the caller's `max_price`.
    """
    if now_s >= route.ranked_until_s:
        route.ranked, route.ranked_until_s = _rank(route), now_s + RANKED_S
    ordered: list[Target] = []
    for group, ranked in zip(route.groups, route.ranked, strict=True):
        ordered += _order_group(group, ranked, seed)
    return ordered


def _order_group(group: Group, ranked: Sequence[tuple[float, Target]], seed: bytes | None) -> list[Target]:
    targets = [target for _, target in ranked]
    if len(targets) < 2:
        return targets
    if group.sort is None:
        by_chance = random.randbytes(16) if seed is None else seed
        return sorted(targets, key=lambda target: draw(by_chance, target))
    if seed is None:
        return targets
    best = ranked[0][0]
    most = best if math.isinf(best) else best * AS_GOOD[group.sort]
    first = [target for value, target in ranked if value <= most]
    return [*sorted(first, key=lambda target: draw(seed, target)), *targets[len(first) :]]


def _rank(route: Route) -> Ranked:
    max_price = None if route.choice is None else route.choice.max_price
    ranked = []
    for group in route.groups:
        targets = [target for target in group.targets if max_price is None or _costs_at_most(target, max_price)]
        measure = _MEASURES[group.sort]
        ranked.append(sorted(((measure(target), target) for target in targets), key=lambda pair: pair[0]))
    if not any(ranked):
        raise _make_too_dear(route)
    return ranked


def _measure_price(target: Target) -> float:
    price = get_price(target.provider.billing, target.model)
    if price is None:
        return math.inf
    return float(PROMPT_SHARE * price.prompt + (price.completion or 0)) / (PROMPT_SHARE + 1)


def _measure_latency(target: Target) -> float:
    ttft_ms = get_quality(target.provider.name, target.model).ttft_ms
    return math.inf if ttft_ms is None else ttft_ms.p50


def _measure_throughput(target: Target) -> float:
    """Returns the time per token in seconds; less is better."""
    tokens_per_second = get_quality(target.provider.name, target.model).tokens_per_second
    return 1 / tokens_per_second if tokens_per_second else math.inf


def _measure_nothing(target: Target) -> float:
    return 0.0


_MEASURES: Mapping[Sort | None, Callable[[Target], float]] = {
    "price": _measure_price,
    "latency": _measure_latency,
    "throughput": _measure_throughput,
    None: _measure_nothing,
}


def _costs_at_most(target: Target, most: MaxPrice) -> bool:
    price = get_price(target.provider.billing, target.model)
    return (
        price is not None and _is_at_most(price.prompt, most.prompt) and _is_at_most(price.completion, most.completion)
    )


def _is_at_most(price: Decimal | None, most: float | None) -> bool:
    return most is None or price is None or price * _PER_MILLION <= Decimal(repr(most))


def _make_too_dear(route: Route) -> BadRequest:
    priced = [
        (target, get_price(target.provider.billing, target.model)) for group in route.groups for target in group.targets
    ]
    shown = "; ".join(f"{target.provider.name}: {_describe(price)}" for target, price in priced)
    return BadRequest(
        f"All providers are above `provider.max_price`, in USD per million tokens: {shown}. Raise it, or leave it out.",
        param="provider.max_price",
        code="no_target",
    )


def _describe(price: Price | None) -> str:
    if price is None:
        return "an unknown price"
    completion = "" if price.completion is None else f" and {to_plain_text(price.completion * _PER_MILLION)} for output"
    return f"{to_plain_text(price.prompt * _PER_MILLION)} for the prompt{completion}"
