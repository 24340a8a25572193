"""Draws of workers from budgets: lists them, releases those of lost workers, and checks the sums."""

from __future__ import annotations

from uuid import UUID

from app.db import read_connection, write_connection
from app.db.lease_sums import (
    Forgiven,
    LeaseRow,
    Mistake,
    select_is_live,
    select_leases,
    select_mistakes,
    update_forgiven,
)
from app.db.leases import ClosedLeases, release_leases
from app.errors import Conflict, NotFound
from app.services.administration.audit import record_change

# More leases than an operator would read.
MAX_LISTED = 1_000


def list_leases() -> list[LeaseRow]:
    """Returns the leases with an amount in use or unaccounted for, at most MAX_LISTED.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return select_leases(connection, MAX_LISTED)


def check_leases() -> list[Mistake]:
    """Returns the disagreements between the sums of budgets; [] if there are none.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return select_mistakes(connection)


def release_worker(actor: str, worker_id: str, *, free: bool) -> ClosedLeases:
    """Closes the leases of a lost worker.

    Args:
        actor: who makes the change, for the audit.
        worker_id: the worker.
        free: whether drawn but uncharged amounts go back to the budgets, because they were not spent. If not, they
            count as spent.

    Raises:
        Conflict: the worker lives, or lived some minutes ago.
        NotFound: it has no leases.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        if select_is_live(connection, worker_id):
            raise Conflict(f"The worker {worker_id} lives, so it gives back what it does not need. Stop it first.")
        closed = release_leases(connection, worker_id, free=free)
        if not closed.leases:
            raise NotFound(f"There are no leases of {worker_id!r}. `bin/gateway budgets leases` lists all.")
        after = {"leases": closed.leases, "kept": {str(kept.period): kept.amount for kept in closed.kept}}
        record_change(connection, actor, "lease.free" if free else "lease.charge", f"worker:{worker_id}", None, after)
    return closed


def forgive_request(actor: str, request_id: UUID) -> Forgiven:
    """Reduces the charge of a request to its known use, if budgets were charged the most that it could cost.

    Args:
        actor: who makes the change, for the audit.
        request_id: the gateway's id of the request.

    Returns:
        The reduction of its charge.

    Raises:
        NotFound: there is no such request, or it was under no budget.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        forgiven = update_forgiven(connection, request_id)
        if forgiven is None:
            raise NotFound(f"No request {request_id} was charged to a budget, or its record is dropped already.")
        if forgiven.usd or forgiven.tokens:
            after = {"usd": str(forgiven.usd), "tokens": forgiven.tokens}
            record_change(connection, actor, "request.forgive", f"request:{request_id}", None, after)
    return forgiven
