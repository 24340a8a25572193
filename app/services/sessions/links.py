"""One-time links that sign in to the dashboard without a key: `bin/gateway dashboard link` and `make run` print one."""

from __future__ import annotations

from app.config import SettingsError
from app.db import read_connection, write_connection
from app.db.keys import select_key_digest
from app.db.sessions import LINK_LIFE, delete_link, insert_link
from app.errors import AuthenticationFailed, NotFound
from app.runtime import get_settings
from app.services.keys import digest_of, find_key
from app.services.sessions.sessions import digest_token, insert_new_session, make_token

LINK_LIFE_MINUTES = int(LINK_LIFE.total_seconds() // 60)


def create_link(key: str) -> str:
    """Returns the token of a new link that signs in with a gateway key, once and within LINK_LIFE_MINUTES.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    return _insert(digest_of(key))


def create_link_for(key_id: str | None) -> str:
    """Returns the token of a new link that signs in with the key of this id, None for GATEWAY_API_KEY.

    Raises:
        NotFound: there is no such key, or it is revoked.
        SettingsError: GATEWAY_API_KEY is not set.
        DatabaseError: the database is unavailable or slow.
    """
    if key_id is None:
        keys = get_settings().gateway_api_key
        if not keys:
            raise SettingsError("GATEWAY_API_KEY is not set. Name an operator's key: --key ID.")
        return create_link(keys[0])
    with read_connection() as connection:
        digest = select_key_digest(connection, key_id)
    if digest is None:
        raise NotFound(
            f"There is no key {key_id[:100]!r} that works. `bin/gateway keys list` or GET /api/keys shows the ids."
        )
    return _insert(digest)


def _insert(key_digest: bytes) -> str:
    token = make_token()
    with write_connection() as connection:
        insert_link(connection, digest_token(token), key_digest)
    return token


def redeem_link(token: str) -> str:
    """Uses up a link and returns the token of the session that it begins.

    Raises:
        AuthenticationFailed: the link was used before, is too old, or its key does not work any more.
        Unavailable: the key cannot be looked up now.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        key_digest = delete_link(connection, digest_token(token))
    if key_digest is None or find_key(key_digest) is None:
        raise AuthenticationFailed(
            f"This link does not work any more: it can be used once, within {LINK_LIFE_MINUTES} minutes. Make another"
            " one with `bin/gateway dashboard link`, or sign in with a gateway key."
        )
    return insert_new_session(key_digest)
