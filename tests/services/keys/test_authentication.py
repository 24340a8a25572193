"""A caller's key: the operator's needs no database; others are looked up in memory, which belongs to the settings."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import pytest
from sqlalchemy import text

from app.config import load_settings
from app.db import get_engine
from app.db.keys import insert_key
from app.errors import AuthenticationFailed, Unavailable
from app.runtime import get_component, use_settings
from app.services.keys import Key, KeySnapshot, authenticate, find_known_key, lookups, new_key, start_keys
from app.services.keys.keys import OPERATOR_KEY, digest_of
from tests.support.keys import create_key
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
    use_settings(load_settings({"GATEWAY_API_KEY": "secret-of-operators, next-of-operators", "DATABASE_URL": AWAY}))
    for key in ("secret-of-operators", "next-of-operators"):
        assert authenticate(f"Bearer {key}") is OPERATOR_KEY
    assert find_known_key("Bearer secret-of-operators, next-of-operators") is None


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


def test_lookups_at_the_same_time_share_queries_and_each_gets_its_own_result(database_url: str, tmp_path: Path) -> None:
    use_settings(load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)}))
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
    assert first == Key(row.id, "phone")
    assert authenticate(f"Bearer {key}") is first and authenticate(f"Bearer {early}").name == "laptop"
    [refresher] = [thread for thread in threading.enumerate() if thread.name == "key-refresh" and thread.is_alive()]
    use_settings(None)
    wait_until(lambda: not refresher.is_alive(), what="the end of the refresh thread")


def _insert(name: str, **values: object) -> str:
    key = new_key()
    with get_engine().begin() as connection:
        insert_key(connection, id=name, name=name, digest=digest_of(key), last_four=key[-4:], **values)  # type: ignore[arg-type]
    return key


def _execute(statement: str) -> None:
    with get_engine().begin() as connection:
        connection.execute(text(statement))


def test_keys_expire_by_the_clock_and_operators_have_no_holder(database_url: str, tmp_path: Path) -> None:
    use_settings(load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)}))
    _execute("INSERT INTO subject (id, kind, name) VALUES ('h', 'holder', 'h')")
    now = datetime.now(UTC).replace(microsecond=0)
    hour = timedelta(hours=1)
    made = {
        "good": _insert("good", expires_at=now + hour, holder_id="h"),
        "expired": _insert("expired", expires_at=now - hour),
        "long expired": _insert("long expired", expires_at=now - timedelta(days=30)),
        "operator": _insert("operator", is_operator=True, holder_id="h"),
    }
    snapshot = get_component(KeySnapshot)
    looked_up = {}
    for is_loaded in (False, True):
        if is_loaded:
            snapshot.refresh()
            assert snapshot.get_state().known == 3, "a key that expired long ago takes no memory"
            assert find_known_key(f"Bearer {made['good']}") and find_known_key(f"Bearer {made['expired']}") is None
            assert find_known_key(f"Basic {made['good']}") is find_known_key(None) is None
        for name in ("good", "operator"):
            found = authenticate(f"Bearer {made[name]}")
            assert looked_up.setdefault(name, found) == found == snapshot.get(digest_of(made[name]))
        for name in ("expired", "long expired"):
            with pytest.raises(AuthenticationFailed) as caught:
                authenticate(f"Bearer {made[name]}")
            assert caught.value.code == "key_expired" and "operator" in caught.value.message
    assert looked_up["good"] == Key("good", "good", int((now + hour).timestamp()), "h")
    assert looked_up["operator"] == Key("operator", "operator", is_operator=True)


def test_a_new_key_is_not_answered_before_its_limits_are_known(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_settings(load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)}))
    snapshot = get_component(KeySnapshot)
    _execute("UPDATE subject SET max_output_tokens = 9")
    early = authenticate(f"Bearer {_insert('early')}")
    assert snapshot.policies[early.holder_id].max_output_tokens == 9
    _execute("INSERT INTO subject (id, kind, name, concurrent) VALUES ('h', 'holder', 'alice', 2)")
    limited = authenticate(f"Bearer {_insert('limited', holder_id='h')}")
    assert [subject.concurrent for subject in snapshot.policies[limited.holder_id].subjects] == [2, None]

    _execute("INSERT INTO subject (id, kind, name) VALUES ('i', 'holder', 'bob')")
    key = _insert("unknown", holder_id="i")
    monkeypatch.setattr(snapshot, "refresh", lambda: None)
    with pytest.raises(Unavailable):
        authenticate(f"Bearer {key}")


def test_a_known_key_is_checked_without_further_calls(database_url: str, tmp_path: Path) -> None:
    use_settings(load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)}))
    header = f"Bearer {_insert('known', expires_at=datetime.now(UTC) + timedelta(hours=1))}"
    authenticate(header)
    called = []

    def see(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(see)
    try:
        authenticate(header)
    finally:
        sys.setprofile(None)
    assert called == ["authenticate", "digest_of", "get_component", "get_runtime", "get", "get"]
