"""Keys are found by their digest, listed oldest first, and revoked once."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from app.db.keys import insert_key, select_keys, select_keys_by_digest, update_key_revoked

DIGEST = hashlib.sha256(b"one").digest()


def test_a_key_is_found_by_its_digest_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        made = insert_key(connection, id="k1", name="laptop", digest=DIGEST, last_four="abcd")
    with engine.connect() as connection:
        found = select_keys_by_digest(connection, [DIGEST, hashlib.sha256(b"two").digest()])
    assert found == {DIGEST: made}
    assert made[:3] == ("k1", "laptop", "abcd")
    assert made.created_at.tzinfo is not None and made.revoked_at is None


def test_a_duplicate_digest_or_id_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        insert_key(connection, id="k1", name="laptop", digest=DIGEST, last_four="abcd")
    for id, digest in [("k2", DIGEST), ("k1", b"other")]:
        with pytest.raises(IntegrityError), engine.begin() as connection:
            insert_key(connection, id=id, name="laptop", digest=digest, last_four="abcd")


def test_a_revoked_key_stays_listed_with_the_time_of_its_first_revocation(engine: Engine) -> None:
    with engine.begin() as connection:
        insert_key(connection, id="k1", name="laptop", digest=DIGEST, last_four="abcd")
    with engine.begin() as connection:
        insert_key(connection, id="k0", name="phone", digest=b"other", last_four="efgh")
    with engine.begin() as connection:
        revoked = update_key_revoked(connection, "k1")
    with engine.begin() as connection:
        assert update_key_revoked(connection, "k1") == revoked
        assert update_key_revoked(connection, "nothing") is None
        keys = select_keys(connection)
    assert revoked is not None and revoked.revoked_at is not None
    assert [(key.id, key.revoked_at) for key in keys] == [("k1", revoked.revoked_at), ("k0", None)]
