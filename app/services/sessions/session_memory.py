"""The sessions by the database's last answer, in the memory of each worker.

A page asks the database for its session. The memory counts only while the database is away, so that signed-in people
can still see the problem, even at a worker that has never served them before.

A person who signs out meanwhile is signed out at this worker at once. The thread that refreshes the sessions deletes
the row when the database is back, and from then on no other worker accepts the session either.
"""

from __future__ import annotations

import random
import threading
import time

from app.config import SettingsError
from app.db import DatabaseError, get_engine, time_limit
from app.db.sessions import delete_sessions, select_sessions
from app.logs import log_event
from app.runtime import Component, Runtime, get_component
from app.services.keys import GRACE_S

# A session that began less than this many seconds before the outage may be unknown to the other workers.
REFRESH_S = 20.0
# The pause between attempts of a sign-out that waits for the database.
_RETRY_S = 1.0
_QUERY_TIME_LIMIT_S = 2.0
# More people than operate a gateway; any others have to wait for the database.
_MAX_SESSIONS = 1_000


class SessionMemory(Component):
    """The sessions: digest of the token → digest of the key; and those that ended while the database was away."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._sessions: dict[bytes, bytes] = {}
        self._ended: set[bytes] = set()
        self._wake = threading.Event()
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

    def end(self, digest: bytes) -> None:
        """Marks a session as ended although the database still has it; its row is deleted in the background."""
        # A digest that is not in memory may belong to no session, and anybody can send one, so their number is bounded.
        if self._sessions.pop(digest, None) is not None or len(self._ended) < _MAX_SESSIONS:
            self._ended.add(digest)
        self._wake.set()

    def is_ended(self, digest: bytes) -> bool:
        """Returns whether a session has ended although the database may still have its row."""
        return digest in self._ended

    def refresh(self) -> None:
        """Deletes the ended sessions, and loads the others; the current ones stay if the database is away."""
        asked_s = time.monotonic()
        ended = list(self._ended)
        try:
            with time_limit(_QUERY_TIME_LIMIT_S), get_engine().begin() as connection:
                if ended:
                    delete_sessions(connection, ended)
                rows = select_sessions(connection, _MAX_SESSIONS)
        except (DatabaseError, SettingsError):
            return  # The refresh of the keys has logged it already.
        self._ended.difference_update(ended)
        self._sessions = {row.digest: row.key_digest for row in rows if row.digest not in self._ended}
        self._confirmed_s = asked_s

    def _refresh_until_closed(self) -> None:
        while not self._closed.is_set():
            try:
                self.refresh()
            except Exception as error:
                log_event("session_refresh_failed", level="error", error=error)
            if self._ended:
                self._closed.wait(_RETRY_S)
            else:
                self._wake.wait(REFRESH_S * random.uniform(0.8, 1.0))
            self._wake.clear()

    def close(self) -> None:
        """Ends the refreshes."""
        self._closed.set()
        self._wake.set()


def start_sessions() -> None:
    """Starts the refreshes of this process's sessions. A worker calls it once."""
    get_component(SessionMemory).start()
