"""The numbers behind prometheus_client's counters and histograms, for metrics that each request adds to.

`labels` takes a lock and builds a tuple of strings, and `inc` and `observe` check for mistakes that are not made here.
Together that takes three times as long as the addition: 22 more calls for each request's metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

# A function that adds to one number.
Add = Callable[[float], None]


def get_add(counter: Any) -> Add:
    """Returns the function that adds to a counter, which must have its labels."""
    add: Add = counter._value.inc
    return add


class Spread:
    """The numbers of one histogram: the observations up to each bound, and their sum.

    Args:
        histogram: the histogram, with its labels.
    """

    __slots__ = ("_add_to_bucket", "_add_to_sum", "_bounds")

    def __init__(self, histogram: Any) -> None:
        self._bounds: Sequence[float] = histogram._upper_bounds
        self._add_to_bucket: Sequence[Add] = [bucket.inc for bucket in histogram._buckets]
        self._add_to_sum: Add = histogram._sum.inc

    def observe(self, value: float) -> None:
        """Adds one observation."""
        self._add_to_sum(value)
        self._add_to_bucket[bisect_left(self._bounds, value)](1)
