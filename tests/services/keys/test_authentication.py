"""A caller's key: the operator's needs no database, others are in memory, which belongs to its settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.config import load_settings
from app.errors import AuthenticationFailed, Unavailable
from app.runtime import use_settings
from app.services.keys import authenticate, create_key, lookups, new_key, start_keys
from app.services.keys.keys import OPERATOR_KEY
from tests.support.waiting import wait_until

AWAY = "postgresql://nobody@/nothing?host=/nowhere"


@pytest.fixture(autouse=True)
def _reset_settings() -> Iterator[None]:
    yield
    use_settings(None)


def test_the_operators_key_works_without_a_database() -> None:
    use_settings(load_settings({"GATEWAY_API_KEY": "secret-of-operators", "DATABASE_URL": AWAY}))
    assert authenticate("Bearer secret-of-operators") is OPERATOR_KEY
    assert OPERATOR_KEY.is_operator


def test_without_an_operators_key_no_header_is_accepted() -> None:
    use_settings(load_settings({"DATABASE_URL": AWAY}))
    for header in (None, "", "Bearer", "Bearer ", "Basic secret-of-operators", "Bearer secret-of-operators"):
        with pytest.raises(AuthenticationFailed):
            authenticate(header)


def test_other_settings_have_another_operators_key() -> None:
    use_settings(load_settings({"GATEWAY_API_KEY": "first-of-operators"}))
    assert authenticate("Bearer first-of-operators") is OPERATOR_KEY
    use_settings(load_settings({"GATEWAY_API_KEY": "second-of-operators"}))
    assert authenticate("bearer second-of-operators") is OPERATOR_KEY
    with pytest.raises(AuthenticationFailed):
        authenticate("Bearer first-of-operators")


def test_a_key_that_is_not_in_memory_is_unavailable_while_the_database_is(capfd: pytest.CaptureFixture[str]) -> None:
    use_settings(load_settings({"DATABASE_URL": AWAY}))
    with pytest.raises(Unavailable):
        authenticate(f"Bearer {new_key()}")
    assert "key_lookup_failed" in capfd.readouterr().err


def test_more_lookups_than_may_wait_are_refused_at_once(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"DATABASE_URL": database_url, "GATEWAY_API_KEY": "operators-own-key", "JOURNAL_DIR": str(tmp_path)}
    use_settings(load_settings(settings))
    key, _ = create_key("laptop")
    start_keys()
    known = authenticate(f"Bearer {key}")
    monkeypatch.setattr(lookups, "MAX_WAITING_LOOKUPS", 0)
    with pytest.raises(Unavailable) as caught:
        authenticate(f"Bearer {new_key()}")
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1)
    assert authenticate(f"Bearer {key}") is known and authenticate("Bearer operators-own-key") is OPERATOR_KEY


def test_lookups_at_the_same_time_share_queries_and_each_gets_its_own_result(database_url: str) -> None:
    use_settings(load_settings({"DATABASE_URL": database_url}))
    made = [create_key(f"key {number}") for number in range(10)]
    asked = [key for key, _ in made] * 3 + [new_key() for _ in range(400)]
    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(_find_id, asked))
    assert results == [row.id for _, row in made] * 3 + [None] * 400


def _find_id(key: str) -> str | None:
    try:
        return authenticate(f"Bearer {key}").id
    except AuthenticationFailed:
        return None


def test_a_new_key_is_added_and_the_refreshes_end_with_their_settings(database_url: str, tmp_path: Path) -> None:
    use_settings(load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)}))
    early, _ = create_key("laptop")
    start_keys()
    key, row = create_key("phone")
    first = authenticate(f"Bearer {key}")
    assert (first.id, first.name, first.is_operator) == (row.id, "phone", False)
    assert authenticate(f"Bearer {key}") is first and authenticate(f"Bearer {early}").name == "laptop"
    [refresher] = [thread for thread in threading.enumerate() if thread.name == "key-refresh" and thread.is_alive()]
    use_settings(None)
    wait_until(lambda: not refresher.is_alive(), what="the end of the refresh thread")
