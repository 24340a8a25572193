"""The journals of lost hosts: delivers them from a directory, or gives them up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.db import read_connection, write_connection
from app.db.hosts import select_live_workers, select_missing, update_written_off
from app.errors import Conflict, NotFound
from app.services.administration.audit import record_change
from app.services.journal import AdoptedJournal, adopt_journals, list_journals


def adopt_directory(actor: str, root: Path, tell: Callable[[AdoptedJournal], None]) -> int:
    """Delivers all journals in a directory, such as the copied JOURNAL_DIR of a host that will not come back.

    Args:
        actor: who makes the change, for the audit.
        root: a JOURNAL_DIR, or the directory of one worker. Delivered journals are removed.
        tell: called for each delivered journal.

    Returns:
        The number of journals that another process of this machine uses, which were left alone.

    Raises:
        Conflict: the worker of a journal lives, so the journal is a copy of one that is being written.
        DatabaseError: the database is unavailable. Rows delivered before are stored; call again.
        OSError: a file cannot be read or removed.
    """
    journals = list_journals(root)
    found = [journal.worker_id for journal in journals if not journal.is_in_use]
    if not found:
        return len(journals)
    with read_connection() as connection:
        live = select_live_workers(connection, found)
    if live:
        raise Conflict(
            f"The worker {live[0]} reported in the last three minutes, so it delivers its journal itself,"
            f" and what is in {root} is a copy. If its host has just died, wait until three minutes after that, and"
            " repeat. Otherwise stop its gateway, which delivers all by itself, and copy again what it leaves."
        )
    adopted: list[AdoptedJournal] = []

    def note(journal: AdoptedJournal) -> None:
        adopted.append(journal)
        tell(journal)

    try:
        return adopt_journals(root, note)
    finally:
        if adopted:
            after = {each.worker_id: {"delivered": each.delivered, "lost": each.lost} for each in adopted}
            with write_connection() as connection:
                record_change(connection, actor, "journal.adopt", f"journal:{root}", None, after)


def write_off_worker(actor: str, worker_id: str, confirm: Callable[[dict[str, int]], None] | None = None) -> int:
    """Gives up the journal of a missing worker.

    Args:
        actor: who makes the change, for the audit.
        worker_id: the worker.
        confirm: called with the result that `write_off_host` would have; if it raises, nothing is written off.

    Returns:
        The number of requests without a record in its last report; they count as unrecorded from then on.

    Raises:
        NotFound: no worker with this id is missing.
        DatabaseError: the database is unavailable or slow.
    """
    if confirm is not None:
        confirm(_select_missing(worker_id=worker_id))
    with write_connection() as connection:
        requests = update_written_off(connection, worker_id=worker_id)
        _raise_if_none(requests, worker_id=worker_id)
        record_change(connection, actor, "journal.write_off", f"worker:{worker_id}", None, {"requests": requests})
    return requests[worker_id]


def write_off_host(actor: str, host: str, confirm: Callable[[dict[str, int]], None] | None = None) -> dict[str, int]:
    """Gives up the journals of all missing workers of a host; its live workers continue.

    Args:
        actor, confirm: as in `write_off_worker`.
        host: the host.

    Returns:
        Worker → the result of `write_off_worker`.

    Raises:
        NotFound: the host has no missing worker.
        DatabaseError: the database is unavailable or slow.
    """
    if confirm is not None:
        confirm(_select_missing(host=host))
    with write_connection() as connection:
        requests = update_written_off(connection, host=host)
        _raise_if_none(requests, host=host)
        record_change(connection, actor, "journal.write_off", f"host:{host}", None, {"requests": requests})
    return requests


def _select_missing(*, worker_id: str | None = None, host: str | None = None) -> dict[str, int]:
    with read_connection() as connection:
        requests = select_missing(connection, worker_id=worker_id, host=host)
    _raise_if_none(requests, worker_id=worker_id, host=host)
    return requests


def _raise_if_none(requests: dict[str, int], *, worker_id: str | None = None, host: str | None = None) -> None:
    if requests:
        return
    if worker_id is not None:
        raise NotFound(f"No missing worker has the id {worker_id!r}. GET /api/activity/integrity lists them.")
    raise NotFound(
        f"No worker of a host {host!r} is missing; one is after three minutes without a report."
        " `bin/gateway journal list` lists hosts."
    )
