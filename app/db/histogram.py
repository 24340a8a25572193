"""Histograms of latencies that can be added up, with logarithmic buckets and percentiles within 5 %.

Bucket i holds the values in (γ^(i-1), γ^i] milliseconds. Its representative 2γ^i/(γ+1) differs by at most the fraction
α = (γ-1)/(γ+1) from any value in it: the bound of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable
quantile sketch with relative-error guarantees", PVLDB 12(12), 2019). γ = 1.1 makes α 4.76 %.

The trigger on activity (migration 0007) puts times into buckets. Times below 0.01 ms are counted as 0.01 ms, because
nothing below is measured and zero has no logarithm. The table's limit on durations bounds the highest bucket.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

GAMMA = 1.1


def histogram_value_ms(bucket: int) -> float:
    """Returns the value in milliseconds that represents a bucket."""
    return float(2 * GAMMA**bucket / (GAMMA + 1))


def histogram_quantiles_ms(counts: Mapping[int, int], quantiles: Sequence[float]) -> list[float | None]:
    """Returns quantiles (0.0 to 1.0) of a histogram given as bucket → count; each is None if the histogram is empty.

    Each is within 5 % of the value at position floor(quantile × (n - 1)), counted from 0 in ascending order.
    """
    buckets = sorted(counts)
    passed = list(accumulate(counts[bucket] for bucket in buckets))
    if not buckets or not passed[-1]:
        return [None] * len(quantiles)
    ranks = [math.floor(quantile * (passed[-1] - 1)) for quantile in quantiles]
    return [histogram_value_ms(buckets[bisect_right(passed, rank)]) for rank in ranks]
