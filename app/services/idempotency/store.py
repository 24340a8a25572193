"""The kept answers in the database: claims, answers, and delayed writes; room.py has the bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from app.db import Database, DatabaseError, describe_error, time_limit
from app.db.kept_answers import (
    FoundAnswer,
    NewClaim,
    delete_claim,
    insert_claim,
    select_answer,
    update_answer,
    update_lost,
)
from app.errors import Unavailable
from app.logs import log_event
from app.runtime import Component, Runtime
from app.services.idempotency.answer import MAX_ANSWER_BYTES
from app.services.idempotency.room import Room

# How long a request waits for the database, in seconds; statements take milliseconds.
_TIME_LIMIT_S = 3.0
# Between a failed claim and reading the row in its way, that row may have been deleted.
_TRIES = 5

# Above PostgreSQL's statement_timeout, after which an abandoned statement has ended.
_UNCERTAIN_S = 12.0
_RETRY_S = 1.0
# The most bytes that wait in memory for the database; answers beyond that are lost. A write without an answer takes
# less than this.
_MAX_WAITING_BYTES = 4 * MAX_ANSWER_BYTES
_WRITE_BYTES = 1_024


class _Write(NamedTuple):
    """A failed write, to be repeated from `due_s` on, by the monotonic clock; `bytes` of memory wait for it."""

    due_s: float
    bytes: int
    carry_out: Callable[[], None]


class AnswerStore(Component):
    """The kept answers of all workers and hosts."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        database = runtime.get(Database)
        self._engine = database.answer_engine
        self._room = Room(database, self.settings.idempotency_rows, self.settings.idempotency_bytes)
        self._waiting: list[_Write] = []
        self._writer: threading.Thread | None = None
        self._is_closed = False

    def claim(self, id: bytes, key_id: str, request_id: str, body_digest: bytes) -> FoundAnswer | None:
        """Claims an id for a request, or returns the row of an earlier one.

        Raises:
            Unavailable: the database is away, or has the most answers allowed.
        """
        settings = self.settings
        claim = NewClaim(id, key_id, request_id, body_digest, self.runtime.worker_id, settings.idempotency_hours)
        try:
            with time_limit(_TIME_LIMIT_S):
                is_full = self._room.is_full_for(key_id)
                for _ in range(_TRIES):
                    if not is_full and insert_claim(self._engine, claim):
                        self._room.add(key_id, 1, 0)
                        return None
                    found = select_answer(self._engine, id)
                    if found is not None:
                        return found
                    if is_full:
                        raise _make_full()
        except DatabaseError as error:
            # If there was a connection, the row may have been inserted all the same, and would look like a request that
            # is being served.
            if getattr(error, "statement", "") is not None:
                self._write_later(_UNCERTAIN_S, 0, lambda: delete_claim(self._engine, id, request_id))
            log_event("idempotency_lookup_failed", level="warning", reason=describe_error(error))
        raise Unavailable(
            "The gateway cannot look now whether this Idempotency-Key was used before, because its database is "
            "unavailable. Nothing was sent to a provider. Retry in a few seconds.",
            code="idempotency_unavailable",
            retry_after_s=5,
        )

    def save(self, id: bytes, key_id: str, request_id: str, sealed: bytes) -> None:
        """Adds the answer of a claimed request; at once, or as soon as the database is back."""
        self._room.add(key_id, 0, len(sealed))
        is_written = self._write(len(sealed), lambda: update_answer(self._engine, id, request_id, sealed))
        if not is_written:
            self._write_later(_RETRY_S, 0, lambda: update_lost(self._engine, id, request_id))

    def release(self, id: bytes, key_id: str, request_id: str) -> None:
        """Frees the id of a claimed request that cost nothing, so that it can be repeated."""
        self._room.add(key_id, -1, 0)
        self._write(0, lambda: delete_claim(self._engine, id, request_id))

    def _write(self, bytes: int, carry_out: Callable[[], None]) -> bool:
        """Executes a write now or later; returns False if there is no room for it to wait."""
        try:
            with time_limit(_TIME_LIMIT_S):
                carry_out()
            return True
        except DatabaseError as error:
            log_event("idempotency_write_delayed", level="warning", reason=describe_error(error))
            return self._write_later(_RETRY_S, bytes, carry_out)

    def _write_later(self, delay_s: float, bytes: int, carry_out: Callable[[], None]) -> bool:
        bytes += _WRITE_BYTES
        if sum(each.bytes for each in self._waiting) + bytes > _MAX_WAITING_BYTES:
            log_event("idempotency_write_lost", level="error", reason="the database is away for too long")
            return False
        self._waiting.append(_Write(time.monotonic() + delay_s, bytes, carry_out))
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, daemon=True, name="kept-answers")
            self._writer.start()
        return True

    def _write_all(self) -> None:
        while self._waiting and not self._is_closed:
            time.sleep(_RETRY_S)
            self._write_due(time.monotonic())
        self._writer = None

    def _write_due(self, now_s: float) -> None:
        for each in [one for one in self._waiting if one.due_s <= now_s]:
            if each not in self._waiting:
                continue  # `close` and the thread may run at the same time.
            self._waiting.remove(each)
            try:
                with time_limit(_TIME_LIMIT_S):
                    each.carry_out()
            except DatabaseError:
                self._waiting.append(each)
                return  # The others would wait as long.

    def close(self) -> None:
        """Executes the waiting writes, if the database is available, and ends the thread."""
        self._is_closed = True
        self._write_due(float("inf"))


def _make_full() -> Unavailable:
    return Unavailable(
        "The gateway keeps as many answers as it may, or half of them are of this gateway key (IDEMPOTENCY_ROWS, "
        "IDEMPOTENCY_BYTES). Nothing was sent to a provider. Retry later, send the request without Idempotency-Key, or "
        "ask the operator for more room.",
        code="idempotency_full",
        retry_after_s=60,
    )
