"""Looks up keys that are not in the snapshot: most were created since its last refresh, or are not keys at all."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from itertools import islice

from app.config import SettingsError
from app.db import Database, DatabaseError, describe_error, time_limit
from app.db.keys import select_keys_by_digest
from app.errors import Unavailable
from app.logs import log_event
from app.metrics import count_failed_key_check
from app.runtime import Component, Runtime
from app.services.keys.keys import Key, make_key
from app.services.keys.snapshot import QUERY_TIME_LIMIT_S, KeySnapshot

# The most lookups per query, and the most that may wait. A query for 200 takes some milliseconds, so this many waiting
# lookups are a second's work, and most likely somebody is trying out keys.
LOOKUPS_PER_QUERY = 200
MAX_WAITING_LOOKUPS = 2_000
# The total time limit of a lookup, in seconds: queries ahead of it and its own.
_LOOKUP_WAIT_S = 2 * QUERY_TIME_LIMIT_S + 1


@dataclass(slots=True)
class _Lookup:
    """A lookup in progress; `key` and `failed` are its result once `done` is set."""

    done: threading.Event = field(default_factory=threading.Event)
    key: Key | None = None
    failed: bool = False


class KeyLookups(Component):
    """The waiting lookups. They share one connection, with many lookups per query, so that none delays the others."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._snapshot = runtime.get(KeySnapshot)
        self._lookups: dict[bytes, _Lookup] = {}
        self._is_looking_up = False
        self._lock = threading.Lock()

    def look_up(self, digest: bytes) -> Key | None:
        """Returns the key with this digest from the database; None if it is unknown or revoked.

        Raises:
            Unavailable: the database does not answer or has no keys for now, or too many lookups are waiting.
        """
        with self._lock:
            lookup = self._lookups.get(digest)
            if lookup is None:
                if len(self._lookups) >= MAX_WAITING_LOOKUPS:
                    count_failed_key_check("too_many_lookups")
                    raise Unavailable(
                        "The gateway is checking too many new keys at the moment. Retry in a second.",
                        code="overloaded",
                        retry_after_s=1,
                    )
                lookup = self._lookups[digest] = _Lookup()
                if not self._is_looking_up:
                    self._is_looking_up = True
                    threading.Thread(target=self._answer_lookups, name="key-lookup", daemon=True).start()
        is_answered = lookup.done.wait(_LOOKUP_WAIT_S) and not lookup.failed
        if is_answered and (lookup.key is not None or not self._snapshot.doubt.is_of_keys):
            return lookup.key
        # A worker that has just started may have loaded the snapshot from the file meanwhile.
        key = self._snapshot.get(digest)
        if key is None:
            count_failed_key_check("database_unavailable")
            raise Unavailable(
                "The gateway cannot check this key, because its database is unavailable. Retry in a few seconds; if"
                " this persists, tell the operator.",
                code="database_unavailable",
                retry_after_s=5,
            )
        return key

    def _answer_lookups(self) -> None:
        """Answers the lookups, oldest first, until none are waiting."""
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
                reason = describe_error(error)
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
        """Returns the valid keys among these digests, and adds them to the snapshot."""
        asked_s = time.monotonic()
        with time_limit(QUERY_TIME_LIMIT_S), self.runtime.get(Database).lookup_engine.connect() as connection:
            rows = select_keys_by_digest(connection, digests)
        found = {digest: make_key(row) for digest, row in rows.items() if row.revoked_at is None}
        self._learn_limits({key.holder_id for key in found.values()})
        self._snapshot.add(found, asked_s)
        return found

    def _learn_limits(self, holders: set[str]) -> None:
        """Refreshes the snapshot if it lacks limits of one of these holders: no request may pass without them.

        Raises:
            DatabaseError: the limits could not be read.
        """
        if all(self._snapshot.knows_holder(holder) for holder in holders):
            return
        self._snapshot.refresh()
        if not all(self._snapshot.knows_holder(holder) for holder in holders):
            raise DatabaseError("the limits of a new key could not be read")
