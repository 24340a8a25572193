"""The journal of this process: opened, shipped, asked how it is, and closed.

    recorder.py         counts the requests and writes their records
    segment_writer.py   appends records to files      segments.py   what the files look like
    segment_reader.py   reads them back
    delivery.py         rows and the ledger's line go to PostgreSQL in one statement
    shipper.py          does that for this worker     adoption.py   and for workers that died

Records survive the death of the process by any signal and any outage of PostgreSQL. They do not survive a power cut
within the half minute before the kernel writes them to the disk, nor the loss of the disk.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from app.db.engine import READ_PATIENCE_S, get_engine
from app.db.errors import bounded
from app.db.ledger import select_integrity
from app.runtime import get_settings
from app.services.journal.recorder import Recorder
from app.services.journal.segment_format import remove_directory
from app.services.journal.shipper import Shipper


class _Journal(NamedTuple):
    recorder: Recorder
    shipper: Shipper


_journal: _Journal | None = None


def start_journal() -> Recorder:
    """Starts the journal and its shipping in this process, unless they run; returns what records requests.

    Call it in a worker, never before the fork: threads do not survive it.
    """
    global _journal
    if _journal is None:
        root = get_settings().journal_dir
        recorder = Recorder(root)
        _journal = _Journal(recorder, Shipper(root, recorder))
    return _journal.recorder


def stop_journal(deadline_s: float) -> bool:
    """Ships what can be shipped within `deadline_s` seconds and lets go of the files.

    Returns:
        Whether everything was shipped. What was not is adopted by another worker, or by the next to start.
    """
    global _journal
    if _journal is None:
        return True
    recorder, shipper = _journal
    drained = shipper.stop(deadline_s)
    _journal = None
    if drained:
        # Before the lock is let go, so that nobody adopts it meanwhile.
        remove_directory(recorder.writer.directory)
    recorder.close()
    return drained


def get_journal_status() -> dict[str, Any]:
    """Returns how the journal of this process fares.

    Returns:
        writable: whether the last attempt to write succeeded.
        backlog_rows, backlog_bytes, oldest_age_s: rows that are not in the database yet, the length of the files
            that hold them, and how long ago the oldest of them ended (None without any).
        unrecorded: requests without a row, because neither disk nor memory had room.
        rejected_rows: rows that PostgreSQL refused; they are in rejected.jsonl.
        shipped_rows: rows taken to the database.
        last_error: why writing or shipping fails now, None when both work.
    """
    start_journal()
    assert _journal is not None
    recorder, shipper = _journal
    line = shipper.own.make_line([])
    error = recorder.error or shipper.error
    return {
        "writable": recorder.error is None,
        "backlog_rows": line.unshipped,
        "backlog_bytes": shipper.own.reader.backlog_bytes() if line.unshipped else 0,
        "oldest_age_s": _oldest_age_s(shipper) if line.unshipped else None,
        "unrecorded": line.unrecorded,
        "rejected_rows": line.rejected,
        "shipped_rows": recorder.shipped_lines + line.direct - line.rejected,
        "last_error": None if error is None else f"{type(error).__name__}: {error}".partition("\n")[0],
    }


class _Ended(msgspec.Struct):
    started_at: datetime
    duration_ms: float | None = None


def _oldest_age_s(shipper: Shipper) -> float | None:
    content = shipper.own.peek()
    if content is None:
        return None
    row = msgspec.json.decode(content, type=_Ended)
    return max(0.0, time.time() - row.started_at.timestamp() - (row.duration_ms or 0) / 1000)


def get_integrity() -> dict[str, Any]:
    """Returns what became of all requests ever begun, by all workers that share the database, from one snapshot.

    Returns:
        started: requests begun, as the workers counted them.
        outcomes: rows by outcome, as the rollups counted them.
        in_flight, unshipped, unrecorded, rejected, unsent: requests without a row; app/db/tables.py explains each.
        balanced: whether started is the sum of the rest.

    Raises:
        DatabaseError: the database is away.
    """
    with bounded(READ_PATIENCE_S):
        ledger, outcomes = select_integrity(get_engine())
    started = ledger.pop("started")
    balanced = started == sum(ledger.values()) + sum(outcomes.values())
    return {"started": started, "outcomes": outcomes, **ledger, "balanced": balanced}


def _forget_after_fork() -> None:
    # A forked child must not write its parent's journal. Closing its copies of the descriptors leaves the lock with
    # the parent, because flock's locks go with the last copy.
    global _journal
    if _journal is not None:
        _journal.recorder.writer.close()
        _journal = None


os.register_at_fork(after_in_child=_forget_after_fork)
