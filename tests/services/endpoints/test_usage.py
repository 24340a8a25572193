"""A usage is read field by field: implausible numbers count as unknown, and the rest is kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.endpoints import Usage
from app.services.endpoints.usage import MAX_PLAUSIBLE_TOKENS, read_usage
from tests.support.soak import examples


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (0, 0),
        (3, 3),
        (3.0, 3),
        ("3", 3),
        (MAX_PLAUSIBLE_TOKENS, MAX_PLAUSIBLE_TOKENS),
        (MAX_PLAUSIBLE_TOKENS + 1, None),
        (-1, None),
        (-400, None),
        (10**13, None),
        (10**30, None),
        (1e300, None),
        (3.5, None),
        (float("nan"), None),
        (float("inf"), None),
        (float("-inf"), None),
        (True, None),
        (None, None),
        ("", None),
        ("-1", None),
        ("n/a", None),
        ("³", None),
        ("9" * 5000, None),
        ([], None),
        ({}, None),
    ],
)
def test_an_implausible_number_is_unknown_and_the_others_are_kept(completion: Any, expected: int | None) -> None:
    assert read_usage({"prompt_tokens": 11, "completion_tokens": completion}) == Usage(11, expected)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (0.5, 0.5),
        (0, 0.0),
        (2e-07, 2e-07),
        (-1, None),
        (True, None),
        ("0.5", None),
        (10**400, None),
        (float("nan"), None),
    ],
)
def test_a_stated_cost_is_read_if_it_can_be_one(cost: Any, expected: float | None) -> None:
    raw = {"prompt_tokens": 11, "completion_tokens": 3, "estimated_cost": cost}
    assert read_usage(raw) == Usage(11, 3, cost_usd=expected)


@pytest.mark.parametrize("details", [None, [], "text", 5, {"cached_tokens": 3.5, "reasoning_tokens": -1}])
def test_unreadable_details_do_not_take_the_totals_with_them(details: Any) -> None:
    raw = {"prompt_tokens": 11, "completion_tokens": 3}
    raw |= {"prompt_tokens_details": details, "completion_tokens_details": details}
    assert read_usage(raw) == Usage(11, 3)


def test_a_part_that_is_greater_than_its_total_is_unknown() -> None:
    raw = {
        "prompt_tokens": 11,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 12},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    assert read_usage(raw) == Usage(11, 3)
    raw["prompt_tokens_details"], raw["completion_tokens_details"] = {"cached_tokens": 11}, {"reasoning_tokens": 3}
    assert read_usage(raw) == Usage(11, 3, 11, 3)


@pytest.mark.parametrize("raw", [None, 10.5, "n/a", [], {}, True, {"prompt_tokens": -1, "completion_tokens": "?"}])
def test_a_usage_without_a_readable_number_is_none(raw: Any) -> None:
    assert read_usage(raw) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
)
NAMES = ["prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"]


@settings(max_examples=examples(100), deadline=None)
@given(JSON_VALUES | st.dictionaries(st.sampled_from(NAMES), JSON_VALUES))
def test_nothing_raises(raw: Any) -> None:
    usage = read_usage(raw)
    assert usage is None or isinstance(usage, Usage)
