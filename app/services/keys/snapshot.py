"""The live keys of the database and their limits in memory, renewed in the background.

A worker asks the database every REFRESH_S with the fingerprint of its data, and gets everything only if something has
changed. So checking a request's key costs one lookup in a dict, a revoked key stops working within REVOCATION_S, and
all keys work for GRACE_S after the last answer of the database. A worker that starts without the database takes the
keys from the file that the workers of its host keep (snapshot_file.py), for the rest of that time. So does one that
starts while the database is being restored (half_restored.py).
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import Literal

import msgspec

from app.config import KEYS_GRACE_S, SettingsError
from app.db import Database, DatabaseError, describe_error, identify_database, time_limit
from app.db.limit_tables import GATEWAY_ID
from app.db.live_keys import select_live_keys
from app.logs import log_event, redact
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component
from app.services.keys.half_restored import Doubt
from app.services.keys.keys import OPERATOR_KEY, Key, digest_of
from app.services.keys.live_keys import NO_KEYS, LiveKeys, decode_live_keys
from app.services.keys.snapshot_file import KeyFile
from app.services.limits import Policy, Subject
from app.snapshot_file import FileUnusable, Saved

# The interval of queries to the database, in seconds.
REFRESH_S = 2.0
# A revoked key stops working within this many seconds: one period, and a slow query.
REVOCATION_S = 5.0
GRACE_S = KEYS_GRACE_S
# The time limit of the query, in seconds.
QUERY_TIME_LIMIT_S = 2.0
# How long a starting worker waits for the keys, in seconds. They arrive after some milliseconds, unless the database is
# frozen; then the worker starts without them, and loads the file once the query has failed.
_START_WAIT_S = 1.0
# How often each worker checks whether the file has the right keys and a recent time, in seconds.
_SAVE_INTERVAL_S = 10.0


class KeysState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of this process's snapshot of the keys.

    Attributes:
        known: how many keys of the database it has.
        age_s: seconds since the database had exactly these keys; None if there is no snapshot.
        source: where they were loaded from; None if there is no snapshot.
        usable: whether these keys work, which they do until `age_s` is GRACE_S.
        database_up: whether the database answered the last query; None before the first.
        last_error: why it did not; None if it did.
        file_error: why the file is not used while the database does not answer; None if there is no reason.
        doubt: why the database seems to be half restored, so that what it had counts on; None if it does not.
    """

    known: int
    age_s: float | None
    source: Literal["database", "file"] | None
    usable: bool
    database_up: bool | None
    last_error: str | None
    file_error: str | None
    doubt: str | None = None


class KeySnapshot(Component):
    """GATEWAY_API_KEY, all live keys by the database's last answer, and keys that were looked up since.

    Attributes:
        policies: `holder_id` of a key → its limits. A key whose holder is missing has no limits.
        doubt: whether the last answer of the database is in doubt.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._operator_digests = frozenset(map(digest_of, self.settings.gateway_api_key))
        self.policies: dict[str, Policy] = NO_KEYS.policies
        self._keys: dict[bytes, Key] = {}
        self._subjects: dict[str, Subject] = {}
        # The digests that were looked up, and the times of the lookups on the monotonic clock.
        self._looked_up_s: dict[bytes, float] = {}
        # The last time at which the database had exactly these keys: on the monotonic clock, and as a Unix time.
        self._confirmed_s = self._confirmed_at = float("-inf")
        self._fingerprint = ""
        self._source: Literal["database", "file"] | None = None
        self.doubt = Doubt()
        self._database_up: bool | None = None
        self._last_error: str | None = None
        url = self.settings.database_url
        self._file = KeyFile(self.settings.journal_dir, "" if url is None else identify_database(url))
        self._file_error: str | None = None
        self._saved_fingerprint = ""
        self._save_at_s = 0.0
        self._lock = threading.Lock()
        # Without it, the older answer of two simultaneous refreshes could be applied last.
        self._refresh_lock = threading.Lock()
        self._task = PeriodicTask(
            "key-refresh",
            self.refresh,
            pause_s=lambda: REFRESH_S * random.uniform(0.8, 1.0),
            on_error=lambda error: log_event("key_refresh_failed", level="error", error=error),
        )

    def get(self, digest: bytes) -> Key | None:
        """Returns the key with this digest; None if there is none, or if the keys are older than GRACE_S."""
        if digest in self._operator_digests:
            return OPERATOR_KEY
        key = self._keys.get(digest)
        return key if key is not None and time.monotonic() - self._confirmed_s < GRACE_S else None

    def add(self, keys: dict[bytes, Key], asked_s: float) -> None:
        """Adds keys that the database had at `asked_s`, on the monotonic clock. The next refresh confirms them."""
        with self._lock:
            for digest, key in keys.items():
                if digest not in self._keys:
                    self._looked_up_s[digest] = asked_s
                self._keys[digest] = key

    def knows_holder(self, holder_id: str) -> bool:
        """Returns whether the limits of keys with this `holder_id`, or the lack of any, are in memory."""
        return self._source is not None and (holder_id or GATEWAY_ID) in self._subjects

    def start(self) -> None:
        """Starts the refreshes and waits a moment for the keys; later calls do nothing."""
        self._task.start(_START_WAIT_S)

    def get_state(self) -> KeysState:
        """Returns the state of the snapshot."""
        age_s = None if self._source is None else time.monotonic() - self._confirmed_s
        return KeysState(
            known=len(self._keys),
            age_s=age_s,
            source=self._source,
            usable=age_s is not None and age_s < GRACE_S,
            database_up=self._database_up,
            last_error=self._last_error,
            file_error=self._file_error,
            doubt=self.doubt.reason,
        )

    def refresh(self) -> None:
        """Applies the keys of the database. If it does not answer, keeps the current ones or loads the file."""
        with self._refresh_lock:
            self._refresh()

    def _refresh(self) -> None:
        asked_s, asked_at = time.monotonic(), time.time()
        try:
            with time_limit(QUERY_TIME_LIMIT_S), self.runtime.get(Database).poll_connection() as connection:
                found = select_live_keys(connection, self._fingerprint)
        except (DatabaseError, SettingsError) as error:
            self._on_failure(error)
            return
        content = decode_live_keys(found)
        if self._database_up is False:
            log_event("key_refresh_resumed", keys=len(self._keys if content is None else content.keys))
        self._database_up, self._last_error, self._file_error = True, None, None
        if content is not None and self._apply_if_doubted(content, found.empty):
            return
        self._take(content, asked_s, asked_at, "database")
        self._fingerprint = found.fingerprint
        if self._fingerprint != self._saved_fingerprint or asked_s >= self._save_at_s:
            self._save(asked_s)

    def _apply_if_doubted(self, found: LiveKeys, empty: frozenset[str]) -> bool:
        """Applies the believed part of the database's answer if it seems half restored; returns whether it seems so."""
        held, saved = LiveKeys(self._keys, self._subjects, self.policies), None
        if self._source is None and empty:
            with suppress(FileUnusable):  # Keys of an old file do not work, but they prove that there were keys.
                saved = self._file.read(after=self._confirmed_at, longest_age_s=float("inf"))
        believed = self.doubt.judge(found, empty, held if saved is None else saved.content)
        if believed is not None:
            self._take_saved(saved)
            with self._lock:
                self._subjects, self.policies, self._keys = believed.subjects, believed.policies, believed.keys
                self._looked_up_s = {
                    digest: when_s for digest, when_s in self._looked_up_s.items() if digest in believed.keys
                }
            self._fingerprint = ""
        return believed is not None

    def _on_failure(self, error: Exception) -> None:
        reason = redact(describe_error(error))
        if self._database_up is not False:
            log_event("key_refresh_failed", level="error", reason=reason)
        self._database_up, self._last_error = False, reason
        self._load()

    def _load(self) -> None:
        """Loads the file if it is newer than the keys in memory: another worker may still reach the database."""
        try:
            saved = self._file.read(after=self._confirmed_at, longest_age_s=GRACE_S)
        except FileUnusable as unusable:
            if not self.get_state().usable:
                self._refuse_file(f"{self._file.path} is not used because {unusable}")
            return
        self._take_saved(saved)

    def _take_saved(self, saved: Saved[LiveKeys] | None) -> None:
        if saved is None:
            return
        age_s = max(0.0, time.time() - saved.confirmed_at)
        self._take(saved.content, time.monotonic() - age_s, saved.confirmed_at, "file")
        # The first answer of the database replaces keys from a file, even if it is the same.
        self._fingerprint, self._file_error = "", None
        log_event("key_file_loaded", keys=len(saved.content.keys), age_s=round(age_s))

    def _refuse_file(self, reason: str) -> None:
        if self._file_error is None:
            log_event("key_file_refused", level="warning", reason=reason)
        self._file_error = reason

    def _take(
        self,
        found: LiveKeys | None,
        confirmed_s: float,
        confirmed_at: float,
        source: Literal["database", "file"],
    ) -> None:
        """Replaces the keys, or confirms them if `found` is None. Only later lookups are kept."""
        with self._lock:
            later = {digest: when_s for digest, when_s in self._looked_up_s.items() if when_s > confirmed_s}
            if found is None:
                for digest in self._looked_up_s.keys() - later.keys():
                    del self._keys[digest]
            else:
                later = {digest: when_s for digest, when_s in later.items() if digest not in found.keys}
                found.keys.update([(digest, self._keys[digest]) for digest in later])
                # In this order, so that no key is without its limits at any time.
                self._subjects, self.policies = found.subjects, found.policies
                self._keys = found.keys
            self._looked_up_s = later
            self._confirmed_s, self._confirmed_at = confirmed_s, confirmed_at
            self._source = source

    def _save(self, asked_s: float) -> None:
        keys = self._keys
        if self._looked_up_s:
            keys = {digest: key for digest, key in keys.items() if digest not in self._looked_up_s}
        content = LiveKeys(keys, self._subjects, self.policies)
        is_saved = self._file.save(self._fingerprint, content, self._confirmed_at)
        self._saved_fingerprint = self._fingerprint if is_saved else ""
        self._save_at_s = asked_s + _SAVE_INTERVAL_S

    def close(self) -> None:
        """Ends the refreshes."""
        self._task.close()


def start_keys() -> None:
    """Starts the refreshes of this process's keys, and waits a moment for them. Called once per worker."""
    get_component(KeySnapshot).start()


def get_keys_state() -> KeysState:
    """Returns the state of this process's snapshot of the keys."""
    return get_component(KeySnapshot).get_state()
