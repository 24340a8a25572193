"""Percentiles from a histogram's buckets are within the stated error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from app.db.histogram import GAMMA, histogram_quantiles_ms, histogram_value_ms
from tests.db.rows import insert_rows, make_row


def test_the_bound_of_the_error_is_below_five_percent() -> None:
    assert (GAMMA - 1) / (GAMMA + 1) < 0.05


def test_a_bucket_of_the_database_represents_its_values_within_the_bound(engine: Engine) -> None:
    values = [0.01 * 1.037**power for power in range(800)]
    # The trigger's buckets are in the order of the rows, which are inserted by time.
    insert_rows(engine, [make_row(after_s=number / 1_000, duration_ms=value) for number, value in enumerate(values)])
    with engine.connect() as connection:
        [buckets] = connection.execute(text("SELECT duration_buckets FROM rollup_delta")).scalars()
    assert max(values) > 10**10
    for value, bucket in zip(values, buckets, strict=True):
        assert histogram_value_ms(bucket) == pytest.approx(value, rel=0.0477)


@given(st.dictionaries(st.integers(-40, 250), st.integers(1, 10**9), min_size=1), st.floats(0, 1))
def test_a_quantile_is_the_value_at_its_rank(counts: dict[int, int], quantile: float) -> None:
    rank = int(quantile * (sum(counts.values()) - 1))
    below = [bucket for bucket in sorted(counts) if sum(counts[b] for b in counts if b <= bucket) <= rank]
    expected = next(bucket for bucket in sorted(counts) if bucket not in below)
    assert histogram_quantiles_ms(counts, [quantile]) == [histogram_value_ms(expected)]


def test_an_empty_histogram_has_no_quantile() -> None:
    assert histogram_quantiles_ms({}, [0.5, 0.9]) == [None, None]
