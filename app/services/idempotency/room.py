"""Bounds on kept answers, in total and per gateway key.

Nothing is evicted: a request whose kept answer is gone would be paid for again. So further requests are refused when
there is no room, and no gateway key may take more than half of it. A worker reads the totals every ten seconds, and
sooner after it has added a certain part of the room itself; in between it counts its own answers. So the bounds may be
exceeded by running requests, and by that part for each of the other workers.
"""

from __future__ import annotations

import time

from app.db import Database
from app.db.kept_answers import delete_expired_answers, select_sums

_READ_S = 10.0
# It also reads the totals again once it has added this part of the room.
_READ_PART = 1 / 64
# The number of gateway keys that fill all of the room.
_KEYS = 2


class Room:
    """The kept answers as this worker knows them.

    Args:
        database: the database with the answers.
        rows: the most answers that may be kept.
        bytes: the most bytes that they may have.
    """

    def __init__(self, database: Database, rows: int, bytes: int) -> None:
        self._engine = database.answer_engine
        self._most = rows, bytes
        self._used: dict[str, tuple[int, int]] = {}
        self._read_s: float | None = None
        self._added = 0, 0

    def add(self, key_id: str, rows: int, bytes: int) -> None:
        """Counts what this worker has added for a gateway key or, if below 0, deleted."""
        used = self._used.get(key_id, (0, 0))
        self._used[key_id] = used[0] + rows, used[1] + bytes
        self._added = self._added[0] + rows, self._added[1] + bytes

    def is_full_for(self, key_id: str) -> bool:
        """Returns whether a gateway key may keep no more answers.

        Raises:
            DatabaseError: the database is away.
        """
        now_s = time.monotonic()
        has_added = any(added > most * _READ_PART for added, most in zip(self._added, self._most, strict=True))
        if self._read_s is None or has_added or now_s - self._read_s >= _READ_S:
            self._read(now_s)
            if self._is_full(key_id):
                delete_expired_answers(self._engine)  # Otherwise that is done once an hour.
                self._read(now_s)
        return self._is_full(key_id)

    def _read(self, now_s: float) -> None:
        self._used, self._read_s, self._added = select_sums(self._engine), now_s, (0, 0)

    def _is_full(self, key_id: str) -> bool:
        used = self._used.values()
        sums = sum(rows for rows, _ in used), sum(bytes for _, bytes in used)
        own = self._used.get(key_id, (0, 0))
        return any(
            total >= most or of_key >= max(most // _KEYS, 1)
            for total, of_key, most in zip(sums, own, self._most, strict=True)
        )
