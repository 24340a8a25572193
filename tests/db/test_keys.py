"""Keys are found by their digest, listed oldest first, and revoked once."""

from __future__ import annotations

import hashlib
import json

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from app.db.keys import insert_key, select_keys, select_keys_by_digest, update_key_revoked
from app.db.live_keys import select_live_keys
from app.db.subjects import insert_subject

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


# Statements of workers and commands of the code before migration 0009.
_OLD_INSERT = "INSERT INTO api_key (id, name, digest, last_four) VALUES ('old', 'old', :digest, 'abcd')"
_OLD_SELECT = """
    SELECT live.fingerprint, parts.part
    FROM (
        SELECT count(*) || ':' || coalesce(sum(
            hashtextextended(name, hashtextextended(id, hashtextextended(encode(digest, 'hex'), 0)))
        ), 0) AS fingerprint
        FROM api_key WHERE revoked_at IS NULL
    ) live
    LEFT JOIN LATERAL (
        SELECT json_object_agg(encode(digest, 'base64'), json_build_array(id, name))::text AS part
        FROM api_key WHERE revoked_at IS NULL AND live.fingerprint <> :held
        GROUP BY hashtext(id) & 15
    ) parts ON true
"""


def test_workers_before_holders_and_those_after_share_the_keys(engine: Engine) -> None:
    with engine.begin() as connection:
        holder = insert_subject(connection, id="h", kind="holder", name="alice", concurrent=2)
        assert holder is not None and insert_subject(connection, id="i", kind="holder", name="alice") is None
        made = insert_key(connection, id="new", name="new", digest=b"new", last_four="abcd", holder_id="h")
        connection.execute(text(_OLD_INSERT), {"digest": b"old"})
        old = connection.execute(text(_OLD_SELECT), {"held": ""}).all()
        now = select_live_keys(connection, "")
        assert select_live_keys(connection, now.fingerprint)[:3] == (now.fingerprint, None, None)
    assert {key for row in old for key in json.loads(row.part)} == {"b2xk", "bmV3"}
    assert now.key_parts is not None and now.subject_parts is not None
    keys = {digest: key for part in now.key_parts for digest, key in json.loads(part).items()}
    assert keys == {"b2xk": ["old", "old"], "bmV3": ["new", "new", None, "h", False]}
    subjects = {row[0]: row for part in now.subject_parts for row in json.loads(part)}
    assert subjects.keys() == {"h", "gateway"} and made.holder_id == "h"
    assert subjects["h"] == ["h", "holder", "alice", None, [], None, None, 2, None, []]
