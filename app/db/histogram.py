"""Histograms of latencies that can be added up, with logarithmic buckets and percentiles within 5 %.

Bucket i holds the values in (γ^(i-1), γ^i] milliseconds. Its representative 2γ^i/(γ+1) is off by at most
α = (γ-1)/(γ+1) of any value in it: the bound of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable
quantile sketch with relative-error guarantees", PVLDB 12(12), 2019). γ = 1.1 makes α 4.76 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

GAMMA = 1.1
# Shorter times are counted in the bucket of this value: nothing below a hundredth of a millisecond is measured, and
# zero has no logarithm. The table's limit on durations bounds the highest bucket.
MIN_MS = 0.01

# PostgreSQL's ln() of a double is C's, as is Python's. `{value}` is an SQL expression in milliseconds.
BUCKET_SQL = f"ceil(ln(greatest({{value}}, {MIN_MS})) / {math.log(GAMMA)!r})::smallint"


def histogram_value_ms(bucket: int) -> float:
    """Returns the value in milliseconds that represents a bucket."""
    return float(2 * GAMMA**bucket / (GAMMA + 1))


def histogram_quantile_ms(counts: Mapping[int, int], quantile: float) -> float | None:
    """Returns the quantile (0.0 to 1.0) of a histogram given as bucket → count; None when it is empty.

    The result is within 5 % of the value at position floor(quantile × (n - 1)), counted from 0 in ascending order.
    """
    rank = math.floor(quantile * (sum(counts.values()) - 1))
    passed = 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed > rank:
            return histogram_value_ms(bucket)
    return None
