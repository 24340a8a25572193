"""Percentiles from a histogram's buckets are within the stated error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from app.db.histogram import BUCKET_SQL, GAMMA, histogram_quantile_ms, histogram_value_ms


def test_the_bound_of_the_error_is_below_five_percent() -> None:
    assert (GAMMA - 1) / (GAMMA + 1) < 0.05


def test_a_bucket_of_the_database_represents_its_values_within_the_bound(engine: Engine) -> None:
    values = [0.01 * 1.037**power for power in range(800)]
    query = text(f"SELECT {BUCKET_SQL.format(value='v')} FROM unnest(CAST(:values AS float8[])) AS v")
    with engine.connect() as connection:
        buckets = connection.execute(query, {"values": values}).scalars().all()
    assert max(values) > 10**10
    for value, bucket in zip(values, buckets, strict=True):
        assert histogram_value_ms(bucket) == pytest.approx(value, rel=0.0477)


@given(st.dictionaries(st.integers(-40, 250), st.integers(1, 10**9), min_size=1), st.floats(0, 1))
def test_a_quantile_is_the_value_at_its_rank(counts: dict[int, int], quantile: float) -> None:
    rank = int(quantile * (sum(counts.values()) - 1))
    below = [bucket for bucket in sorted(counts) if sum(counts[b] for b in counts if b <= bucket) <= rank]
    expected = next(bucket for bucket in sorted(counts) if bucket not in below)
    assert histogram_quantile_ms(counts, quantile) == histogram_value_ms(expected)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert histogram_quantile_ms({}, 0.5) is None
