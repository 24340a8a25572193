"""Keeps delivered journals of ended workers for some days, and delivers them again if the database lost them.

After a restore or a failover the database lacks recent data. Live workers still have the last segments of their journal
for this case (`OwnDelivery.rewind_if_reverted`). The journals of ended workers are moved to JOURNAL_DIR/delivered
instead of being removed. When a worker notices that the database knows less of one than its files contain, it moves
them back, and they are delivered like those of killed workers. A row that arrives twice is one row.

A database that knows none of these workers is another database, and gets nothing.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from app.db import Database, time_limit
from app.db.ledger import LedgerLine, select_ledger_lines
from app.db.workers import select_closings
from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.delivery import STATEMENT_TIME_LIMIT_S
from app.services.journal.segment_format import list_directories, read_counters, remove_directory

_PLACE = "delivered"
# A day less than the database keeps the line of each worker (app/db/workers.py): once a line is merged with others,
# nobody can tell how much the database has of that worker.
KEPT_S = 6 * 86_400.0
# A worker leaves up to 8 MB.
KEPT_BYTES = 64 << 20


def put_away(directory: Path, *, keeps: bool) -> bool:
    """Moves or removes an ended worker's delivered journal, whose lock the caller holds.

    Args:
        directory: the journal.
        keeps: whether to keep its files for some days, in case the database is restored.

    Returns:
        Whether that succeeded; if not, the reason is logged, and the journal stays.
    """
    try:
        if keeps:
            _keep(directory)
        else:
            remove_directory(directory)
    except OSError as error:
        log_event(
            "journal_removal_failed",
            level="error",
            reason=str(error),
            worker_id=directory.name,
            next_step="Its records are in the database. Let the gateway write to JOURNAL_DIR, or remove the directory.",
        )
        return False
    return True


def _keep(directory: Path) -> None:
    """Moves a journal into the place of kept ones and removes the oldest of these.

    A journal without requests, or one that cannot be moved, is removed.
    """
    place = directory.parent / _PLACE
    try:
        if not read_counters(directory).begun:
            raise FileNotFoundError
        place.mkdir(mode=0o700, exist_ok=True)
        directory.rename(place / directory.name)
        os.utime(place / directory.name)
    except OSError:
        remove_directory(directory)
        return
    _remove_old(place)


def _remove_old(place: Path) -> None:
    left = KEPT_BYTES
    for directory in sorted(list_directories(place), key=_get_time, reverse=True):
        left -= _measure(directory)
        if left < 0 or time.time() - _get_time(directory) > KEPT_S:
            shutil.rmtree(directory, ignore_errors=True)


def _get_time(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except OSError:  # Another worker has removed it.
        return 0.0


def _measure(directory: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in directory.iterdir())
    return 0


def return_directories(runtime: Runtime, *, went_back: bool = False) -> int:
    """Moves back the journals of which the database knows less than it once did; live workers then adopt them.

    Args:
        runtime: gives the database and JOURNAL_DIR.
        went_back: whether it is known that the database lost data. Otherwise it must know one of the workers, but less
            than is in that worker's journal.

    Returns:
        The number of moved journals.

    Raises:
        Exception: the database is unavailable.
    """
    root = runtime.settings.journal_dir
    kept = [one for one in list_directories(root / _PLACE) if time.time() - _get_time(one) <= KEPT_S]
    if not kept:
        return 0
    names = [directory.name for directory in kept]
    engine = runtime.get(Database).engine
    with time_limit(STATEMENT_TIME_LIMIT_S):
        lines, closings = select_ledger_lines(engine, names), select_closings(engine, names)
    known = [directory for directory in kept if directory.name in lines or directory.name in closings]
    behind = [one for one in known if _is_behind(one, lines.get(one.name), closings.get(one.name))]
    if not behind and not went_back:
        return 0
    unknown = [directory for directory in kept if directory not in known]
    moved = 0
    for directory in (*behind, *unknown):
        with suppress(OSError):  # Another worker has moved or removed it.
            directory.rename(root / directory.name)
            moved += 1
    if moved:
        log_event(
            "journals_returned",
            level="error",
            journals=moved,
            next_step="The database lost rows, by a restore or a failover. Those of workers that have ended are"
            " delivered again. Run `bin/gateway db reconcile-ledger` after that.",
        )
    return moved


def _is_behind(directory: Path, line: LedgerLine | None, closing: str | None) -> bool:
    """Returns whether the database knows a worker as it was before its end, or has written off rows that it lacks.

    Args:
        directory: its journal.
        line: the worker's line in the database. One from before its end has requests in flight, or fewer requests.
        closing: the worker's end in the database.
    """
    if line is None or closing in {"reconciled", "written_off"}:
        return True
    return line.in_flight + line.unshipped > 0 or line.started < read_counters(directory).begun
