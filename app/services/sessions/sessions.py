"""Begins, finds and ends sessions of the dashboard.

A session is a row with the SHA-256 of a random token, which only the browser's cookie has, and that of the gateway key.
The key itself is not kept. It is looked up for each page, so a session ends with its key: when it is revoked, when it
expires, and for the environment's key when GATEWAY_API_KEY changes.
"""

from __future__ import annotations

import hashlib
import secrets

from app.db import DatabaseError, time_limit, write_connection
from app.db.sessions import delete_sessions, insert_session, select_session
from app.errors import Unavailable
from app.runtime import get_component
from app.services.keys import Key, authenticate, digest_of, find_key
from app.services.sessions.session_memory import SessionMemory

# The bytes of a token; it has 43 characters then.
_TOKEN_BYTES = 32
_MAX_TOKEN_CHARACTERS = 100
# How long a page waits for the database if the session is also in memory: pages that need no database are shown then.
_CHECK_TIME_LIMIT_S = 0.8
_FIRST_CHECK_TIME_LIMIT_S = 6.0
# A sign-out that takes longer is done in the background.
_END_TIME_LIMIT_S = 2.0


def make_token() -> str:
    """Returns a new random token, of characters that need no quotes in a URL or a cookie."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def digest_token(token: str) -> bytes:
    """Returns the SHA-256 of a token, 32 bytes, which the database keeps in place of the token."""
    return hashlib.sha256(token[:_MAX_TOKEN_CHARACTERS].encode("utf-8", "replace")).digest()


def create_session(key: str) -> str:
    """Signs in with a gateway key and returns the token of the new session.

    Raises:
        AuthenticationFailed: the key is unknown, malformed, revoked or expired.
        Unavailable: the key cannot be looked up now.
        DatabaseError: the database is unavailable or slow.
    """
    authenticate(f"Bearer {key}")
    return insert_new_session(digest_of(key))


def insert_new_session(key_digest: bytes) -> str:
    """Begins a session of the key with this digest, and returns its token.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    token = make_token()
    digest = digest_token(token)
    with write_connection() as connection:
        insert_session(connection, digest, key_digest)
    get_component(SessionMemory).add(digest, key_digest)
    return token


def find_session_key(token: str) -> Key | None:
    """Returns the gateway key of a session; None if there is no such session, or its key no longer works.

    While the database is away, its last known sessions are valid for as long as keys are (GRACE_S).

    Raises:
        Unavailable: the database is away, and this session is not in memory.
    """
    digest, memory = digest_token(token), get_component(SessionMemory)
    if memory.is_ended(digest):
        return None
    limit_s = _FIRST_CHECK_TIME_LIMIT_S if memory.get(digest) is None else _CHECK_TIME_LIMIT_S
    try:
        with time_limit(limit_s), write_connection() as connection:
            row = select_session(connection, digest)
    except DatabaseError as error:
        key_digest = memory.get(digest)
        if key_digest is None:
            raise Unavailable(
                "Nobody can sign in now, because the gateway's database is unavailable. Requests are served"
                " nevertheless, with every key that was known before. Reload this page in some seconds.",
                code="database_unavailable",
                retry_after_s=5,
            ) from error
    else:
        if row is None:
            memory.remove(digest)
            return None
        memory.add(digest, row.key_digest)
        key_digest = row.key_digest
    key = find_key(key_digest)
    if key is None:
        _forget(digest)
    return key


def _forget(digest: bytes) -> None:
    get_component(SessionMemory).remove(digest)
    try:
        with write_connection() as connection:
            delete_sessions(connection, [digest])
    except DatabaseError:
        pass  # It stays useless, because its key does not work, and it expires by itself.


def end_session(token: str) -> bool:
    """Signs out: the token becomes worthless.

    Returns:
        Whether that holds everywhere. While the database is away it holds only at this worker, which tells the database
        once that is back; the others may accept the token until then.
    """
    digest, memory = digest_token(token), get_component(SessionMemory)
    try:
        with time_limit(_END_TIME_LIMIT_S), write_connection() as connection:
            delete_sessions(connection, [digest])
    except DatabaseError:
        memory.end(digest)
        return False
    memory.remove(digest)
    return True
