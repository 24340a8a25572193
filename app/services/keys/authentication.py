"""Who is calling: a gateway key is checked against the environment's and the database's, mostly from memory.

Every key that was used is kept by its full digest. One background thread per process asks the database about all of
them every two seconds, so a revoked key stops working within REVOCATION_S, and no request waits for the database but
the first one of a key. While the database is away, known keys go on working for GRACE_S after the last answer.
"""

from __future__ import annotations

import hmac
import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from app.config import SettingsError
from app.db.engine import get_engine
from app.db.errors import DatabaseError, bounded, describe_error
from app.db.keys import select_key_by_digest, select_live_digests
from app.errors import AuthenticationFailed, Unavailable
from app.logs import log_event
from app.runtime import get_settings
from app.services.keys.keys import PREFIX, digest_of, is_well_formed

# How often the keys in memory are compared with the database, in seconds.
REFRESH_S = 2.0
# Within this many seconds a revoked key stops working: one period, and a slow query.
REVOCATION_S = 5.0
# An outage of PostgreSQL is mended in minutes; much longer than that, a revoked key should stop all the same.
GRACE_S = 600.0
# How long the first request of a key waits for the database, in seconds.
LOOKUP_TIMEOUT_S = 2.0
# Unknown but well-formed keys are rare (their checksum is right), so few answers need to be remembered.
_MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may call: its public id, its name, and whether it is the operator's."""

    id: str
    name: str
    is_admin: bool = False


ADMIN = Key(id="env", name="GATEWAY_API_KEY", is_admin=True)


class _Known:
    """The keys in memory, of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.keys: dict[bytes, Key] = {}
        self.confirmed_s = time.monotonic()
        self.lock = threading.Lock()
        self.refreshing = False
        self.lookups: dict[bytes, Future[Key | None]] = {}


_known = _Known()
_admin: tuple[str, bytes] | None = None


def authenticate(authorization: str | None) -> Key:
    """Returns the key that a request's Authorization header names.

    Args:
        authorization: the header's value, `Bearer <key>`; None when there is none.

    Raises:
        AuthenticationFailed: there is no key, or it is malformed, unknown or revoked.
        Unavailable: the key is not known here and the database cannot be asked.
    """
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise AuthenticationFailed(
            "No gateway key given. Send the header `Authorization: Bearer <your gateway key>`.", code="missing_api_key"
        )
    digest = digest_of(token)
    if _is_admin(digest):
        return ADMIN
    known = _known_keys()
    key = known.keys.get(digest)
    if key is not None and time.monotonic() - known.confirmed_s < GRACE_S:
        return key
    return _look_up(token, digest)


def _is_admin(digest: bytes) -> bool:
    global _admin
    configured = get_settings().gateway_api_key
    if configured is None:
        return False
    if _admin is None or _admin[0] != configured:
        _admin = (configured, digest_of(configured))
    return hmac.compare_digest(digest, _admin[1])


def _known_keys() -> _Known:
    global _known
    if _known.pid != os.getpid():
        _known = _Known()  # Threads do not survive a fork, and neither should what one of them keeps fresh.
    return _known


def _look_up(token: str, digest: bytes) -> Key:
    """Asks the database about a key that is not in memory."""
    if not is_well_formed(token):
        hint = "Copy it again." if token.startswith(PREFIX) else "Use a gateway key, not the provider's."
        raise AuthenticationFailed(f"The gateway key is not valid. {hint}")
    key = _shared_lookup(digest)
    if key is None:
        raise AuthenticationFailed("The gateway key is unknown or revoked. Ask the operator for a new one.")
    return key


def _shared_lookup(digest: bytes) -> Key | None:
    """Asks the database, once for all requests that want to know the same: many clients may begin with one new key."""
    lookups = _known_keys().lookups
    lookup = lookups.get(digest)
    if lookup is not None:
        return lookup.result()
    lookup = lookups[digest] = Future()
    try:
        lookup.set_result(_fetch_key(digest))
    except Exception as error:
        lookup.set_exception(error)
    finally:
        del lookups[digest]
        lookup.cancel()  # Where this greenlet was killed: the others must not wait for it.
    return lookup.result()


def _fetch_key(digest: bytes) -> Key | None:
    try:
        with bounded(LOOKUP_TIMEOUT_S), get_engine().connect() as connection:
            row = select_key_by_digest(connection, digest)
    except (DatabaseError, SettingsError) as error:
        log_event("key lookup failed", level="error", reason=describe_error(error)[:300])
        raise Unavailable(
            "The gateway cannot check this key at the moment. Retry in a few seconds.", retry_after_s=5
        ) from error
    if row is None or row.revoked_at is not None:
        return None
    key = Key(row.id, row.name)
    _remember(digest, key)
    return key


def _remember(digest: bytes, key: Key) -> None:
    known = _known_keys()
    with known.lock:
        if len(known.keys) >= _MAX_KEYS:
            known.keys.clear()
        if not known.keys:
            known.confirmed_s = time.monotonic()
        known.keys[digest] = key
        if not known.refreshing:
            known.refreshing = True
            threading.Thread(target=_refresh_forever, args=(known,), name="key-refresh", daemon=True).start()


def _refresh_forever(known: _Known) -> None:
    while True:
        time.sleep(REFRESH_S)
        _refresh(known, time.monotonic())


def _refresh(known: _Known, asked_s: float) -> None:
    """Forgets the keys that the database no longer has or has revoked; an outage forgets none."""
    digests = list(known.keys)
    try:
        with bounded(LOOKUP_TIMEOUT_S), get_engine().connect() as connection:
            live = select_live_digests(connection, digests)
    except (DatabaseError, SettingsError):
        return
    with known.lock:
        for digest in digests:
            if digest not in live:
                known.keys.pop(digest, None)
        known.confirmed_s = max(known.confirmed_s, asked_s)
