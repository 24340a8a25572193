"""Keys are recognised by their form and their checksum."""

from __future__ import annotations

import hashlib
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.keys import digest_of, new_key
from app.services.keys.keys import is_well_formed
from tests.support.soak import examples


def test_a_key_has_the_form_that_scanners_search_for_and_is_unique() -> None:
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    for key in keys:
        assert re.fullmatch(r"gw_[0-9A-Za-z]{10}_[0-9A-Za-z]{38}", key) and is_well_formed(key)


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(0, 51), st.sampled_from(string.digits + string.ascii_letters + "_-é "))
def test_a_key_with_one_wrong_character_is_not_well_formed(position: int, wrong: str) -> None:
    key = new_key()
    mistyped = key[:position] + wrong + key[position + 1 :]
    assert is_well_formed(mistyped) is (mistyped == key)


@pytest.mark.parametrize("change", [str.upper, str.lower, str.swapcase, lambda key: key[:-1], lambda key: key + "0"])
def test_a_key_that_was_copied_badly_is_not_well_formed(change: object) -> None:
    assert not is_well_formed(change(new_key()))  # type: ignore[operator]


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=60))
def test_no_text_is_a_key_by_chance(text: str) -> None:
    assert not is_well_formed(text) and not is_well_formed("gw_" + text)


def test_two_swapped_characters_are_detected() -> None:
    for _ in range(50):
        key = new_key()
        for at in range(14, len(key) - 1):
            swapped = key[:at] + key[at + 1] + key[at] + key[at + 2 :]
            assert is_well_formed(swapped) is (swapped == key)


def test_the_digest_is_of_the_whole_key() -> None:
    assert digest_of("gw_test") == hashlib.sha256(b"gw_test").digest()
