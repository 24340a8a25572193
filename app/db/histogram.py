"""Histograms of latencies that can be added up: logarithmic buckets, percentiles at most 5 % off.

Bucket i holds the values in (γ^(i-1), γ^i] milliseconds. Its representative 2γ^i/(γ+1) is off by at most
α = (γ-1)/(γ+1) of any value in it: the bound of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable
quantile sketch with relative-error guarantees", PVLDB 12(12), 2019). γ = 1.1 makes α 4.76 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

GAMMA = 1.1
# Below a hundredth of a millisecond nothing is measured here, and the logarithm of zero does not exist; shorter
# times are counted in this value's bucket. The top is bounded by the table's own limit on durations.
LEAST_MS = 0.01

# PostgreSQL's ln() of a double is that of C, as Python's is; `{value}` is an SQL expression in milliseconds.
BUCKET_SQL = f"ceil(ln(greatest({{value}}, {LEAST_MS})) / {math.log(GAMMA)!r})::smallint"


def histogram_value_ms(bucket: int) -> float:
    """Returns the value in milliseconds that stands for a bucket's contents."""
    return float(2 * GAMMA**bucket / (GAMMA + 1))


def histogram_quantile_ms(counts: Mapping[int, int], quantile: float) -> float | None:
    """Returns the quantile (0.0 to 1.0) of a histogram given as bucket → count, None when it is empty.

    With n values it stands for the one at position floor(quantile × (n - 1)) in ascending order, counted from 0,
    and is at most 5 % off that value.
    """
    rank = math.floor(quantile * (sum(counts.values()) - 1))
    passed = 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed > rank:
            return histogram_value_ms(bucket)
    return None
