"""Kept answers in the database, their bounds, and requests while the database is away."""

from __future__ import annotations

import runpy
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import text

from app.config import load_settings
from app.db import Database, create_engine_for
from app.db.kept_answers import delete_expired_answers
from app.db.workers import upsert_closed
from app.errors import BadRequest, Conflict, GatewayError, Unavailable
from app.runtime import get_runtime, use_settings
from app.server.boot_checks import BOOT_CHECKS
from app.services.idempotency import MAX_ANSWER_BYTES, Claim, KeptAnswer, make_claim
from app.services.idempotency import cipher as cipher_module
from app.services.idempotency.cipher import KeyCipher, Unreadable
from app.services.idempotency.store import AnswerStore
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import refused_address
from tests.support.waiting import wait_until

GATEWAY_KEY, BODY = "a gateway key of some length", b'{"model": "m"}'


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_migrated_database()
    yield url
    use_settings(None)
    postgres.drop_database(url)


def use(url: str, **more: str) -> None:
    """Gives this process a new runtime with these settings, as if it were a new worker."""
    use_settings(load_settings({"DATABASE_URL": url, "IDEMPOTENCY_HOURS": "1", **more}))


def claim(name: str = "one", key_id: str = "env") -> Claim:
    request_id = str(uuid.uuid4())
    return make_claim(GATEWAY_KEY, name, key_id=key_id, request_id=request_id, path="/v1/chat/completions")


def test_an_answer_is_found_by_another_worker_until_it_expires(database: str) -> None:
    use(database)
    first = claim()
    assert first.open(BODY) is None and first.is_held
    with pytest.raises(Conflict) as running:
        claim().open(BODY)
    assert (running.value.code, running.value.retry_after_s) == ("idempotency_in_progress", 2)
    answer = KeptAnswer(status=200, headers={"x-gateway-model": "m"}, body=bytes(range(256)), model="m", is_stream=True)
    first.keep(answer)
    use(database)
    again = claim()
    assert again.open(BODY) == answer and not again.is_held and again.first_id is not None
    with pytest.raises(BadRequest) as mismatch:
        claim().open(BODY + b" ")
    assert (mismatch.value.status, mismatch.value.code) == (422, "idempotency_key_reused")
    assert make_claim("another key", "one", key_id="env", request_id=str(uuid.uuid4()), path="/").open(b"") is None

    engine = get_runtime().get(Database).engine
    assert delete_expired_answers(engine) == 0
    with engine.begin() as connection:
        connection.execute(text("UPDATE kept_answer SET expires_at = now()"))
    taken_over = claim()
    assert taken_over.open(BODY + b"other") is None
    taken_over.release()
    assert claim().open(BODY) is None
    assert delete_expired_answers(engine) == 1  # The answer of the other key.


def test_what_a_dead_worker_served_is_lost_for_good(database: str) -> None:
    use(database)
    assert claim().open(BODY) is None
    engine = get_runtime().get(Database).engine
    upsert_closed(engine, get_runtime().worker_id, "adopted")
    for _ in range(2):
        with pytest.raises(GatewayError) as lost:
            claim().open(BODY)
        assert (lost.value.status, lost.value.code, lost.value.should_retry) == (500, "idempotency_lost", False)
    # A silent worker that was never registered counts as dead.
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM worker"))
    with pytest.raises(Conflict):
        claim().open(BODY)
    with engine.begin() as connection:
        connection.execute(text("UPDATE kept_answer SET created_at = created_at - interval '1 hour'"))
    with pytest.raises(GatewayError, match="lost with the process"):
        claim().open(BODY)


def test_a_long_answer_is_served_and_not_kept(database: str) -> None:
    use(database)
    first = claim()
    first.open(BODY)
    first.keep(KeptAnswer(status=200, headers={}, body=bytes(MAX_ANSWER_BYTES + 1)))
    with pytest.raises(Conflict) as seen:
        claim().open(BODY)
    assert (seen.value.code, seen.value.should_retry) == ("idempotency_not_kept", False)


def test_a_full_store_refuses_new_keys_and_still_knows_the_old_ones(database: str) -> None:
    use(database, IDEMPOTENCY_ROWS="4")

    def open_all(names: str, key_id: str) -> list[Claim]:
        claims = [claim(name, key_id=key_id) for name in names]
        assert [each.open(BODY) for each in claims] == [None] * len(claims)
        return claims

    first, second = open_all("ab", "ann")
    with pytest.raises(Unavailable) as full:
        claim("c", key_id="ann").open(BODY)  # Half of the room is reserved for others.
    assert full.value.code == "idempotency_full"
    open_all("de", "bob")
    first.keep(KeptAnswer(status=200, headers={}, body=b"{}"))
    for key_id in ("ann", "eve"):
        with pytest.raises(Unavailable):
            claim("f", key_id=key_id).open(BODY)
    assert claim("a", key_id="ann").open(BODY) is not None  # A kept answer takes no further room.
    second.release()
    open_all("c", "ann")

    use(database, IDEMPOTENCY_BYTES="40", IDEMPOTENCY_ROWS="99")
    with pytest.raises(Unavailable, match="IDEMPOTENCY_BYTES"):
        claim("g", key_id="ann").open(BODY)
    with get_runtime().get(Database).engine.begin() as connection:
        connection.execute(text("UPDATE kept_answer SET expires_at = now()"))
    use(database, IDEMPOTENCY_BYTES="40", IDEMPOTENCY_ROWS="99")
    open_all("g", "ann")  # Expired answers are deleted when there is no room.


def test_a_worker_that_adds_much_asks_sooner_what_others_have_added(database: str) -> None:
    use(database, IDEMPOTENCY_BYTES="64000", IDEMPOTENCY_ROWS="999")
    first = claim("a", key_id="ann")
    first.open(BODY)
    with get_runtime().get(Database).engine.begin() as connection:
        connection.execute(text("UPDATE kept_answer SET bytes = 70000"))  # As if by another worker.
    assert claim("b", key_id="ann").open(BODY) is None  # The count of a moment ago is good enough.
    first.keep(KeptAnswer(status=200, headers={}, body=bytes(2_000)))
    with get_runtime().get(Database).engine.begin() as connection:
        connection.execute(text("UPDATE kept_answer SET bytes = 70000"))
    with pytest.raises(Unavailable, match="IDEMPOTENCY_BYTES"):
        claim("c", key_id="ann").open(BODY)


def test_without_the_database_such_requests_are_refused() -> None:
    with refused_address() as address:
        use(get_postgres_url(address))
        with pytest.raises(Unavailable) as away:
            claim().open(BODY)
        assert (away.value.code, away.value.retry_after_s) == ("idempotency_unavailable", 5)
        use_settings(None)


def test_an_answer_waits_for_the_database(database: str) -> None:
    use(database)
    first, second, *long = [claim(name) for name in ("one", "two", "a", "b", "c", "d")]
    for each in (first, second, *long):
        assert each.open(BODY) is None
    store = get_runtime().get(AnswerStore)
    engine = store._engine
    with refused_address() as address:
        store._engine = create_engine_for(get_postgres_url(address))
        first.keep(KeptAnswer(status=200, headers={}, body=b"{}"))
        second.release()
        for each in long:  # More than the queue holds.
            each.keep(KeptAnswer(status=200, headers={}, body=bytes(MAX_ANSWER_BYTES - 100)))
        store._engine = engine
    with pytest.raises(Conflict):
        claim("one").open(BODY)
    wait_until(lambda: _can_claim("two"), what="the release")
    kept = claim("one").open(BODY)
    assert kept is not None and kept.body == b"{}"


def _can_claim(name: str) -> bool:
    with suppress(Conflict):
        return claim(name).open(BODY) is None
    return False


def get_postgres_url(address: str) -> str:
    """Returns the URL of a database at an address that refuses connections."""
    return address.replace("http", "postgresql+psycopg2").replace("/inference/v1", "/gateway")


def test_the_start_asks_for_the_package_by_name_and_nothing_else_does(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)  # As if it were not installed.
    runpy.run_path(str(cipher_module.__file__))
    use(database)
    problem = BOOT_CHECKS["cipher"]()
    assert problem is not None and problem.blocks
    assert "IDEMPOTENCY_HOURS" in problem.text and "package cryptography" in problem.text
    use(database, IDEMPOTENCY_HOURS="0")
    assert BOOT_CHECKS["cipher"]() is None
    monkeypatch.undo()
    use(database)
    assert BOOT_CHECKS["cipher"]() is None


def test_a_cipher_opens_its_own_and_nothing_else() -> None:
    cipher, other = KeyCipher(GATEWAY_KEY), KeyCipher(GATEWAY_KEY + "x")
    id = cipher.make_id("one")
    sealed = cipher.seal(id, b"text")
    assert KeyCipher(GATEWAY_KEY).open(id, sealed) == b"text" and sealed != cipher.seal(id, b"text")
    wrong = [
        (other, id, sealed),
        (cipher, other.make_id("one"), sealed),
        (cipher, id, sealed[:-1] + bytes([sealed[-1] ^ 1])),
    ]
    for opener, under, what in [*wrong, (cipher, id, b""), (cipher, id, bytes(12))]:
        with pytest.raises(Unreadable):
            opener.open(under, what)
    digests = {
        each.digest_request(path, body) for each in (cipher, other) for path, body in (("a", b"b"), ("a\0", b"b"))
    }
    assert len(digests) == 4 and cipher.digest_request("a", b"b") in digests
