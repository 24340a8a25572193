"""The sessions that the database last had, in the memory of each worker.

A page asks the database for its session. Only while that is away do these count, so that who is signed in can still
see what is wrong, also at a worker that has never served them before.
"""

from __future__ import annotations

import random
import threading
import time

from app.config import SettingsError
from app.db import DatabaseError, get_engine, time_limit
from app.db.sessions import select_sessions
from app.logs import log_event
from app.runtime import Component, Runtime, get_component
from app.services.keys import GRACE_S

# A session that began less than this many seconds before the database went away may be unknown to the other workers.
REFRESH_S = 20.0
_QUERY_TIME_LIMIT_S = 2.0
# More people than operate a gateway; the others have to wait for the database.
_MAX_SESSIONS = 1_000


class SessionMemory(Component):
    """The sessions: digest of the token → digest of the key."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._sessions: dict[bytes, bytes] = {}
        self._confirmed_s = float("-inf")
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Starts the refreshes; later calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._refresh_until_closed, name="session-refresh", daemon=True)
            self._thread.start()

    def get(self, digest: bytes) -> bytes | None:
        """Returns the digest of a session's key; None if it is not known, or the database is away for too long."""
        return self._sessions.get(digest) if time.monotonic() - self._confirmed_s < GRACE_S else None

    def add(self, digest: bytes, key_digest: bytes) -> None:
        """Adds a session that the database has just confirmed."""
        self._sessions[digest] = key_digest
        self._confirmed_s = time.monotonic()

    def remove(self, digest: bytes) -> None:
        """Forgets a session that has ended."""
        self._sessions.pop(digest, None)

    def refresh(self) -> None:
        """Takes over the sessions of the database; those at hand stay if it does not answer."""
        asked_s = time.monotonic()
        try:
            with time_limit(_QUERY_TIME_LIMIT_S), get_engine().connect() as connection:
                rows = select_sessions(connection, _MAX_SESSIONS)
        except (DatabaseError, SettingsError):
            return  # The refresh of the keys has logged it already.
        self._sessions = {row.digest: row.key_digest for row in rows}
        self._confirmed_s = asked_s

    def _refresh_until_closed(self) -> None:
        while not self._closed.is_set():
            try:
                self.refresh()
            except Exception as error:
                log_event("session_refresh_failed", level="error", error=error)
            self._closed.wait(REFRESH_S * random.uniform(0.8, 1.0))

    def close(self) -> None:
        """Ends the refreshes."""
        self._closed.set()


def start_sessions() -> None:
    """Starts the refreshes of this process's sessions. A worker calls it once."""
    get_component(SessionMemory).start()
