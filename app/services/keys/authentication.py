"""Checks the gateway key of a request, mostly from memory.

Keys in use are cached by their full digest. A background thread compares the cache with the database every two
seconds, so a revoked key stops working within REVOCATION_S and only the first request of a key waits for the database.
While the database is unavailable, cached keys work for GRACE_S after its last answer.
"""

from __future__ import annotations

import hmac
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from app.config import SettingsError
from app.db import Database, DatabaseError, describe_error, time_limit
from app.db.keys import select_key_by_digest, select_live_digests
from app.errors import AuthenticationFailed, Unavailable
from app.logs import log_event
from app.runtime import Component, Runtime, get_component
from app.services.keys.keys import PREFIX, digest_of, is_well_formed

# How often the cached keys are compared with the database, in seconds.
REFRESH_S = 2.0
# A revoked key stops working within this many seconds: one period, and a slow query.
REVOCATION_S = 5.0
# Most outages of PostgreSQL end within minutes. If one lasts much longer, revoked keys must stop working too.
GRACE_S = 600.0
# How long the first request of a key waits for the database, in seconds.
LOOKUP_TIME_LIMIT_S = 2.0
# Far above the number of keys of one gateway.
MAX_CACHED_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Key:
    """A valid key: its public id, its name, and whether it is the operator's."""

    id: str
    name: str
    is_operator: bool = False


OPERATOR_KEY = Key(id="env", name="GATEWAY_API_KEY", is_operator=True)


def authenticate(authorization: str | None) -> Key:
    """Returns the key of a request.

    Args:
        authorization: the value of the Authorization header, `Bearer <key>`; None when there is none.

    Raises:
        AuthenticationFailed: the key is missing, malformed, unknown or revoked.
        Unavailable: the key is not cached and the database does not answer.
    """
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise AuthenticationFailed(
            "No gateway key given. Send the header `Authorization: Bearer <your gateway key>`, or `x-api-key`.",
            code="missing_api_key",
        )
    digest = digest_of(token)
    cache = get_component(KeyCache)
    key = cache.get(digest)
    return _look_up(cache, token, digest) if key is None else key


def _look_up(cache: KeyCache, token: str, digest: bytes) -> Key:
    if not is_well_formed(token):
        hint = "Copy it again." if token.startswith(PREFIX) else "Use a gateway key, not the provider's."
        raise AuthenticationFailed(f"The gateway key is not valid. {hint}")
    key = cache.look_up(digest)
    if key is None:
        raise AuthenticationFailed("The gateway key is unknown or revoked. Ask the operator for a new one.")
    return key


class KeyCache(Component):
    """The operator's key, and the keys of the database that have been used in this process."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        operator_key = self.settings.gateway_api_key
        self._operator_digest = b"" if operator_key is None else digest_of(operator_key)
        self._keys: dict[bytes, Key] = {}
        self._confirmed_s = time.monotonic()
        self._lookups: dict[bytes, Future[Key | None]] = {}
        self._lock = threading.Lock()
        self._refresher: threading.Thread | None = None
        self._closed = threading.Event()

    def get(self, digest: bytes) -> Key | None:
        """Returns the key with this digest; None if it is not cached, or if the cache is older than GRACE_S."""
        if hmac.compare_digest(digest, self._operator_digest):
            return OPERATOR_KEY
        key = self._keys.get(digest)
        return key if key is not None and time.monotonic() - self._confirmed_s < GRACE_S else None

    def look_up(self, digest: bytes) -> Key | None:
        """Returns the key with this digest from the database and caches it; None if it is unknown or revoked.

        Concurrent calls for one key share one query, because many clients may start with the same new key.

        Raises:
            Unavailable: the database does not answer.
        """
        lookup = self._lookups.get(digest)
        if lookup is not None:
            return lookup.result()
        lookup = self._lookups[digest] = Future()
        try:
            lookup.set_result(self._select_key(digest))
        except Exception as error:
            lookup.set_exception(error)
        finally:
            del self._lookups[digest]
            lookup.cancel()  # Has an effect only if this greenlet was killed: concurrent calls then stop waiting.
        return lookup.result()

    def _select_key(self, digest: bytes) -> Key | None:
        try:
            with time_limit(LOOKUP_TIME_LIMIT_S), self.runtime.get(Database).engine.connect() as connection:
                row = select_key_by_digest(connection, digest)
        except (DatabaseError, SettingsError) as error:
            log_event("key_lookup_failed", level="error", reason=describe_error(error)[:300])
            raise Unavailable(
                "The gateway cannot check this key at the moment. Retry in a few seconds.", retry_after_s=5
            ) from error
        if row is None or row.revoked_at is not None:
            return None
        key = Key(row.id, row.name)
        self._add(digest, key)
        return key

    def _add(self, digest: bytes, key: Key) -> None:
        with self._lock:
            if len(self._keys) >= MAX_CACHED_KEYS:
                self._keys.clear()
            if not self._keys:
                self._confirmed_s = time.monotonic()
            self._keys[digest] = key
            if self._refresher is None:
                self._refresher = threading.Thread(target=self._refresh_until_closed, name="key-refresh", daemon=True)
                self._refresher.start()

    def _refresh_until_closed(self) -> None:
        while not self._closed.wait(REFRESH_S):
            self._refresh(time.monotonic())

    def _refresh(self, asked_s: float) -> None:
        """Removes keys that the database has revoked or no longer has. Keeps all of them if it does not answer."""
        digests = list(self._keys)
        try:
            with time_limit(LOOKUP_TIME_LIMIT_S), self.runtime.get(Database).engine.connect() as connection:
                live = select_live_digests(connection, digests)
        except (DatabaseError, SettingsError):
            return
        with self._lock:
            for digest in digests:
                if digest not in live:
                    self._keys.pop(digest, None)
            self._confirmed_s = max(self._confirmed_s, asked_s)

    def close(self) -> None:
        """Stops the background thread."""
        self._closed.set()
