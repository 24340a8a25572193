"""Delivers another host's journals from a directory, by a command and not by a worker."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from app.runtime import get_runtime
from app.services.journal.orphan_backlog import is_orphaned, measure_journal
from app.services.journal.orphans import OrphanDelivery
from app.services.journal.segment_format import list_directories, lock_directory, mark_adopted

# What a gateway leaves in a JOURNAL_DIR beside the journals of workers.
_OTHER_FILES = ("orphans", "keys.snapshot", "aliases.snapshot", "delivered", "rejected.jsonl")
_WORKER_ID = re.compile(r"[0-9a-f]{32}")


class LocalJournal(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's journal in a directory of this machine.

    Attributes:
        is_in_use: whether a process has its lock: the worker lives, or another one delivers the journal.
        rows, bytes: what is not in the database yet; of a journal in use, as far as that is known now.
    """

    worker_id: str
    is_in_use: bool
    rows: int
    bytes: int


class AdoptedJournal(msgspec.Struct, frozen=True, kw_only=True):
    """A journal that was delivered.

    Attributes:
        delivered: rows of requests that had ended, and of those that had not, which are recorded as lost.
        lost: how many had not.
        is_closed: whether the registry and the budgets know it too. If not, the directory is still there, and another
            call completes it.
    """

    worker_id: str
    delivered: int
    lost: int
    is_closed: bool


def list_journals(root: Path) -> list[LocalJournal]:
    """Returns the journals in a JOURNAL_DIR, or the one of a worker's own directory."""
    found = []
    for directory in _find_directories(root):
        measured, in_use = measure_journal(directory), not is_orphaned(directory)
        found.append(LocalJournal(worker_id=directory.name, is_in_use=in_use, rows=measured.rows, bytes=measured.bytes))
    return found


def is_journal_directory(root: Path) -> bool:
    """Returns whether a directory can be a JOURNAL_DIR or a worker's own: it has journals, other files of one, or none.

    An empty directory is what is left of a copy that was adopted before.
    """
    names = {path.name for path in root.iterdir()}
    return not names or bool(_find_directories(root)) or not names.isdisjoint(_OTHER_FILES)


def adopt_journals(root: Path, tell: Callable[[AdoptedJournal], None]) -> int:
    """Delivers all unused journals in a directory, and removes the delivered ones.

    It can be interrupted at any point and called again: a row that arrives twice is one row.

    Args:
        root: a JOURNAL_DIR, or the directory of one worker.
        tell: called for each delivered journal.

    Returns:
        The number of journals in use by another process, which were left alone.

    Raises:
        Exception: the database is unavailable, or a file cannot be read.
    """
    in_use = 0
    for directory in _find_directories(root):
        lock = lock_directory(directory)
        if lock is None:
            in_use += 1
            continue
        mark_adopted(directory)
        delivery = OrphanDelivery(get_runtime(), directory, lock)
        try:
            while delivery.deliver_next():
                pass
        except BaseException:
            delivery.release()
            raise
        is_closed = delivery.finish(keeps=False)
        tell(
            AdoptedJournal(
                worker_id=directory.name, delivered=delivery.delivered, lost=delivery.lost, is_closed=is_closed
            )
        )
    return in_use


def _find_directories(root: Path) -> list[Path]:
    return [root] if _WORKER_ID.fullmatch(root.name) else list_directories(root)
