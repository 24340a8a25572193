"""The aliases in the memory of a worker, renewed in the background.

A worker asks the database every two seconds with the fingerprint of its aliases, and gets all aliases only if one has
changed. So a request only looks into a dict, every worker knows a change within seconds, and the aliases survive an
outage of the database of any length: no alias gives anybody access, so none has to expire. A worker that starts without
the database takes them from a file that the workers of its host keep.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import KeysView
from pathlib import Path
from typing import Any, Literal

import msgspec

from app.config import SettingsError
from app.db import Database, DatabaseError, describe_error, identify_database, time_limit
from app.db.aliases import select_changed_aliases
from app.logs import log_event, redact
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component
from app.snapshot_file import FileUnusable, SnapshotFile

# The interval of queries to the database, in seconds.
REFRESH_S = 2.0
# The time limit of the query, in seconds.
_QUERY_TIME_LIMIT_S = 2.0
# How long a starting worker waits for the aliases, in seconds. They arrive after some milliseconds, unless the database
# is frozen; then the worker starts without them.
_START_WAIT_S = 1.0
# The file, in the directory of the journal.
NAME = "aliases.snapshot"
# How often each worker checks whether the file has the right aliases and a recent time, in seconds.
_SAVE_INTERVAL_S = 10.0
# How long a worker may start with the file, in seconds: longer than outages, but short enough that a host that was off
# for days does not come back with names whose meaning has changed.
FILE_GRACE_S = 86_400.0
_MAX_FILE_BYTES = 32 * 1024 * 1024
_FILE_VERSION = 1

Sort = Literal["price", "latency", "throughput"]


class AliasTarget(msgspec.Struct, frozen=True, array_like=True):
    """A model that an alias stands for.

    Attributes:
        name: the `model` for a request: `<provider>/<model>`, or a form that only one provider uses.
        weight: its share of the requests, above 0, in proportion to the other weights; None if the alias has none.
    """

    name: str
    weight: float | None = None


class Alias(msgspec.Struct, frozen=True, array_like=True):
    """A name that stands for some models.

    Attributes:
        name: the alias, in lower case.
        targets: the models, at least one, in the order in which the operator wrote them.
        sort: the sort criterion of the targets for a request; None keeps their order, or follows their weights.
        overrides: field of a request's body → the value that it gets, whatever the caller sent.
        created_at: its creation time, as a Unix time in seconds.
    """

    name: str
    targets: tuple[AliasTarget, ...]
    sort: Sort | None = None
    overrides: dict[str, Any] = {}
    created_at: int = 0


_decode_aliases = msgspec.json.Decoder(tuple[Alias, ...]).decode


def make_alias_file(directory: Path, database: str) -> SnapshotFile[tuple[Alias, ...]]:
    """Returns the file of one gateway.

    Args:
        directory: the directory of the journal.
        database: identifies the database.
    """
    return SnapshotFile(
        directory / NAME,
        database,
        version=_FILE_VERSION,
        max_bytes=_MAX_FILE_BYTES,
        encode=msgspec.json.encode,
        decode=_decode_aliases,
        logged_as="alias_file",
    )


class Aliases(Component):
    """All aliases by the database's last answer.

    Attributes:
        generation: grows with each change, so that data derived from the aliases can be renewed.
        fingerprint: changes with each change too, and is the same in all workers; "" before the first answer.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.generation = 0
        self.fingerprint = ""
        self._aliases: dict[str, Alias] = {}
        # The fingerprint for the next query: "" until the database has confirmed the content of the file.
        self._held = ""
        # The last time at which the database had exactly these aliases, as a Unix time.
        self._confirmed_at = float("-inf")
        url = self.settings.database_url
        self._file = make_alias_file(self.settings.journal_dir, "" if url is None else identify_database(url))
        self._saved_fingerprint = ""
        self._save_at_s = 0.0
        self._has_failed = False
        # Without it, the older answer of two simultaneous refreshes could be applied last.
        self._refresh_lock = threading.Lock()
        self._task = PeriodicTask(
            "alias-refresh",
            self.refresh,
            pause_s=lambda: REFRESH_S * random.uniform(0.8, 1.0),
            on_error=lambda error: log_event("alias_refresh_failed", level="error", error=error),
        )

    @property
    def names(self) -> KeysView[str]:
        """The names of all aliases, in order."""
        return self._aliases.keys()

    def get(self, name: str) -> Alias | None:
        """Returns the alias with this name, ignoring case; None if there is none."""
        return self._aliases.get(name.lower())

    def all(self) -> tuple[Alias, ...]:
        """Returns all aliases, in order of name."""
        return tuple(self._aliases.values())

    def start(self) -> None:
        """Starts the refreshes and waits a moment for the aliases; later calls do nothing."""
        self._task.start(_START_WAIT_S)

    def refresh(self) -> None:
        """Applies the aliases of the database; if it does not answer, keeps the current ones or loads the file."""
        with self._refresh_lock:
            self._refresh()

    def _refresh(self) -> None:
        asked_s, asked_at = time.monotonic(), time.time()
        try:
            with time_limit(_QUERY_TIME_LIMIT_S), self.runtime.get(Database).poll_connection() as connection:
                found = select_changed_aliases(connection, self._held)
        except (DatabaseError, SettingsError) as error:
            if not self._has_failed:
                log_event("alias_refresh_failed", level="warning", reason=redact(describe_error(error)))
            self._load(is_first=not self._has_failed)
            self._has_failed = True
            return
        if found.aliases is not None:
            self._take(_decode_aliases(found.aliases), found.fingerprint)
            self._held = found.fingerprint
        self._confirmed_at = asked_at
        self._has_failed = False
        if self.fingerprint != self._saved_fingerprint or asked_s >= self._save_at_s:
            is_saved = self._file.save(self.fingerprint, self.all(), asked_at)
            self._saved_fingerprint = self.fingerprint if is_saved else ""
            self._save_at_s = asked_s + _SAVE_INTERVAL_S

    def _take(self, aliases: tuple[Alias, ...], fingerprint: str) -> None:
        self._aliases = {alias.name: alias for alias in aliases}
        self.fingerprint = fingerprint
        self.generation += 1

    def _load(self, *, is_first: bool) -> None:
        """Loads the file if it is newer than the aliases in memory: another worker may still reach the database."""
        try:
            saved = self._file.read(after=self._confirmed_at, longest_age_s=FILE_GRACE_S)
        except FileUnusable as unusable:
            if is_first and not self.fingerprint:
                reason = f"{self._file.path} is not used because {unusable}"
                log_event("alias_file_refused", level="warning", reason=reason)
            return
        if saved is None:
            return
        self._confirmed_at = saved.confirmed_at
        if saved.fingerprint != self.fingerprint:
            self._take(saved.content, saved.fingerprint)
            # The first answer of the database replaces aliases from a file.
            self._held = ""
            log_event("alias_file_loaded", aliases=len(saved.content), age_s=round(time.time() - saved.confirmed_at))

    def close(self) -> None:
        """Ends the refreshes."""
        self._task.close()


def start_aliases() -> None:
    """Starts to read the aliases in the background, and waits a moment for them. A worker calls it once."""
    get_component(Aliases).start()
