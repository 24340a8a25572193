"""What keeps the tables small and ready: partitions are made ahead of need, and dropped when retention has passed.

Every worker does it in a thread of its own; locks in the database let one at a time do the work, and the others find
nothing left to do. No request waits for any of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

from app.db.engine import get_engine, reading
from app.db.errors import bounded, describe_error
from app.db.partitions import drop_partitions, insert_partitions_ahead, select_partition_days
from app.db.rollups import delete_fine_rollups
from app.logs import log_event
from app.runtime import get_settings

# Days end once a day; an hour keeps what is deleted at a time small.
EVERY_S = 3_600.0
# A database that was away at the full hour is tried again soon.
RETRY_S = 60.0
# Workers that start together need not look together.
_JITTER = 0.1
# Each statement ends after 10 s on the server's own account. This is for a server that is frozen; what it breaks off
# in the midst of many days, the next round goes on with.
PATIENCE_S = 300.0

_started_in: threading.Thread | None = None


def start_maintenance() -> None:
    """Starts the upkeep in this process, unless it runs. Call it in a worker: threads do not survive a fork."""
    global _started_in
    if _started_in is None or not _started_in.is_alive():
        _started_in = threading.Thread(target=_run_forever, name="maintenance", daemon=True)
        _started_in.start()


def maintain(now: datetime) -> bool:
    """Does one round; returns whether all of it succeeded. What failed is in the log, and the rest was done."""
    today = now.astimezone(UTC).date()
    before = retention_end(today)
    steps: list[tuple[str, Callable[[], object]]] = [
        ("partitions made", lambda: insert_partitions_ahead(get_engine(), today)),
        ("partitions dropped", lambda: list(drop_days(before))),
        ("fine rollups deleted", lambda: delete_fine_rollups(get_engine(), now)),
    ]
    # A step is done even if one before it failed.
    succeeded = [_attempt(what, step) for what, step in steps]
    return all(succeeded)


def retention_end(today: date) -> date:
    """Returns the first UTC day that RETENTION_DAYS keeps: so many days, and the one that is under way."""
    return today - timedelta(days=get_settings().retention_days)


def get_droppable_days(before: date) -> list[date]:
    """Returns the UTC days before `before` that have rows of activity, or had room made for them, oldest first.

    Raises:
        DatabaseError: the database is away.
    """
    with reading() as connection:
        return [day for day in select_partition_days(connection) if day < before]


def drop_days(before: date) -> Iterator[date]:
    """Drops the rows of activity of the UTC days before `before`, and yields each day when it is gone.

    Raises:
        DatabaseError: the database is away, or someone else's transaction was in the way for too long.
    """
    return drop_partitions(get_engine(), before)


def _attempt(what: str, step: Callable[[], object]) -> bool:
    try:
        with bounded(PATIENCE_S):
            done = step()
    except Exception as error:
        log_event("maintenance failed", level="error", step=what, reason=describe_error(error)[:300])
        return False
    if done:
        log_event(what, what=done)
    return True


def _run_forever() -> None:
    while True:
        pause_s = EVERY_S if maintain(datetime.now(UTC)) else RETRY_S
        time.sleep(pause_s * random.uniform(1 - _JITTER, 1 + _JITTER))
