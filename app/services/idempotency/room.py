"""How many answers may be kept, and how many of one gateway key.

Nothing is evicted: a request whose kept answer is gone would be paid for again. So further requests are refused when
there is no room, and no gateway key may take more than half of it. A worker asks what there is each ten seconds, and
sooner after it has added a part of the room itself; it counts its own in between. So the bounds may be exceeded by what
is being served, and by that part for each of the other workers.
"""

from __future__ import annotations

import time

from app.db import Database
from app.db.kept_answers import delete_expired_answers, select_sums

_READ_S = 10.0
# It also asks again once it has added this part of the room.
_READ_PART = 1 / 64
# How many gateway keys must be full for all to be.
_KEYS = 2


class Room:
    """The kept answers, as this worker knows them.

    Args:
        database: has the answers.
        rows: how many answers may be kept.
        bytes: how many bytes they may have.
    """

    def __init__(self, database: Database, rows: int, bytes: int) -> None:
        self._engine = database.answer_engine
        self._most = rows, bytes
        self._used: dict[str, tuple[int, int]] = {}
        self._read_s: float | None = None
        self._added = 0, 0

    def add(self, key_id: str, rows: int, bytes: int) -> None:
        """Counts what this worker has added for a gateway key, or, below 0, deleted."""
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
                delete_expired_answers(self._engine)  # Else that is done once an hour.
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
