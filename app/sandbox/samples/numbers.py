"""Numbers within the bounds of a schema."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from app.sandbox.samples.errors import NoSample
from app.sandbox.samples.schemas import to_fraction


@dataclass(frozen=True)
class _Bound:
    value: Fraction
    exclusive: bool


def make_number(schema: dict[str, Any], variant: int, *, whole: bool) -> int | float:
    """Returns the lowest number if there is one, else 1 (1.5 if it need not be whole) or the highest.

    Args:
        schema: has no combinators.
        variant: gives another number for each value.
        whole: whether only integers are allowed.

    Raises:
        NoSample: there is no such number.
    """
    low = _find_bound(schema, "minimum", "exclusiveMinimum", 1)
    high = _find_bound(schema, "maximum", "exclusiveMaximum", -1)
    step = to_fraction(schema["multipleOf"]) if "multipleOf" in schema else None
    if step is not None and step <= 0:
        raise NoSample("multipleOf has to be positive")
    if whole:
        step = Fraction(math.lcm(step.numerator, step.denominator), step.denominator) if step else Fraction(1)
    value = _pick(low, high, variant) if step is None else _pick_multiple(low, high, step, variant)
    if not _is_between(value, low, high):
        raise NoSample("no number that is different from the others lies between its bounds")
    return value.numerator if value.denominator == 1 else float(value)


def _find_bound(schema: dict[str, Any], inclusive: str, exclusive: str, sign: int) -> _Bound | None:
    """Returns the narrower of two bounds; `sign` is 1 for lower ones and -1 for upper ones."""
    bounds = [
        _Bound(to_fraction(schema[key]), key == exclusive)
        for key in (inclusive, exclusive)
        if schema.get(key) is not None
    ]
    return max(bounds, key=lambda bound: (sign * bound.value, bound.exclusive), default=None)


def _is_between(value: Fraction, low: _Bound | None, high: _Bound | None) -> bool:
    above = low is None or value > low.value or (value == low.value and not low.exclusive)
    below = high is None or value < high.value or (value == high.value and not high.exclusive)
    return above and below


def _pick(low: _Bound | None, high: _Bound | None, variant: int) -> Fraction:
    usual = Fraction(3, 2)
    if low and high:
        position = variant + 1 if low.exclusive else variant
        return low.value + (high.value - low.value) * Fraction(position, position + 1)
    if low:
        return low.value + variant + (1 if low.exclusive else 0)
    if high and not _is_between(usual + variant, None, high):
        return high.value - variant - (1 if high.exclusive else 0)
    return usual + variant


def _pick_multiple(low: _Bound | None, high: _Bound | None, step: Fraction, variant: int) -> Fraction:
    first = math.ceil((low.value if low else 1) / step) * step
    if low and low.exclusive and first == low.value:
        first += step
    if low or high is None or first + variant * step < high.value:
        return first + variant * step
    last = math.floor(high.value / step) * step
    return last - (variant + (1 if high.exclusive and last == high.value else 0)) * step
