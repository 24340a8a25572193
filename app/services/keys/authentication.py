"""Checks the gateway key of a request, mostly from memory.

Keys in use are cached by their full digest. A background thread compares the cache with the database every two
seconds, so a revoked key stops working within REVOCATION_S and only the first request of a key waits for the database.
While the database is unavailable, cached keys work for GRACE_S after its last answer.
"""

from __future__ import annotations

import hmac
import threading
import time
from dataclasses import dataclass, field
from itertools import islice

from app.config import SettingsError
from app.db import Database, DatabaseError, describe_error, time_limit
from app.db.keys import select_keys_by_digest, select_live_digests
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
# How long a query for keys may take, in seconds.
LOOKUP_TIME_LIMIT_S = 2.0
# How many lookups of keys that are not cached one query answers, and how many may wait. A query for 200 takes some
# milliseconds, so this many waiting is a second's work, and most likely somebody is trying keys out.
LOOKUPS_PER_QUERY = 200
MAX_WAITING_LOOKUPS = 2_000
# How long such a lookup may take in all, in seconds: queries ahead of it and its own.
_LOOKUP_WAIT_S = 2 * LOOKUP_TIME_LIMIT_S + 1
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


@dataclass(slots=True)
class _Lookup:
    """A lookup in progress; `key` and `failed` are its result once `done` is set."""

    done: threading.Event = field(default_factory=threading.Event)
    key: Key | None = None
    failed: bool = False


class KeyCache(Component):
    """The operator's key, and the keys of the database that have been used in this process."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        operator_key = self.settings.gateway_api_key
        self._operator_digest = b"" if operator_key is None else digest_of(operator_key)
        self._keys: dict[bytes, Key] = {}
        self._confirmed_s = time.monotonic()
        self._lookups: dict[bytes, _Lookup] = {}
        self._is_looking_up = False
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

        All lookups take turns on one connection, many in each query, so that no number of unknown keys delays others.

        Raises:
            Unavailable: the database does not answer, or too many lookups are waiting.
        """
        with self._lock:
            lookup = self._lookups.get(digest)
            if lookup is None:
                if len(self._lookups) >= MAX_WAITING_LOOKUPS:
                    raise Unavailable(
                        "The gateway is checking too many new keys at the moment. Retry in a second.",
                        code="overloaded",
                        retry_after_s=1,
                    )
                lookup = self._lookups[digest] = _Lookup()
                if not self._is_looking_up:
                    self._is_looking_up = True
                    threading.Thread(target=self._answer_lookups, name="key-lookup", daemon=True).start()
        if not lookup.done.wait(_LOOKUP_WAIT_S) or lookup.failed:
            raise Unavailable(
                "The gateway cannot check this key at the moment. Retry in a few seconds.", retry_after_s=5
            )
        return lookup.key

    def _answer_lookups(self) -> None:
        """Answers the lookups, oldest first, until none waits."""
        while True:
            with self._lock:
                digests = list(islice(self._lookups, LOOKUPS_PER_QUERY))
                if not digests:
                    self._is_looking_up = False
                    return
            try:
                found: dict[bytes, Key] | None = self._select_keys(digests)
            except Exception as error:
                is_expected = isinstance(error, DatabaseError | SettingsError)
                reason = describe_error(error)[:300]
                log_event("key_lookup_failed", level="error", reason=reason, error=None if is_expected else error)
                found = None
            with self._lock:
                # If this query failed, the waiting lookups would fail too, so all of them are answered now.
                answered = {
                    digest: self._lookups.pop(digest) for digest in (list(self._lookups) if found is None else digests)
                }
            for digest, lookup in answered.items():
                lookup.key, lookup.failed = (found or {}).get(digest), found is None
                lookup.done.set()

    def _select_keys(self, digests: list[bytes]) -> dict[bytes, Key]:
        """Returns the valid keys among these, and caches them."""
        with time_limit(LOOKUP_TIME_LIMIT_S), self.runtime.get(Database).lookup_engine.connect() as connection:
            rows = select_keys_by_digest(connection, digests)
        found = {digest: Key(row.id, row.name) for digest, row in rows.items() if row.revoked_at is None}
        for digest, key in found.items():
            self._add(digest, key)
        return found

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
