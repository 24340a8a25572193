"""Closes the leases of a worker whose records are delivered: unspent amounts go back to the budgets."""

from __future__ import annotations

from app.db import Database, time_limit
from app.db.leases import close_leases
from app.logs import log_event
from app.metrics import count_unaccounted
from app.runtime import Runtime


def close_leases_of(runtime: Runtime, worker_id: str, *, keep: bool, time_limit_s: float) -> None:
    """Closes all leases of a worker that the registry has as ended; repeating it is safe.

    Args:
        runtime: gives the database.
        worker_id: the worker.
        keep: whether records of it may be missing. Then drawn but uncharged amounts stay granted, because they may be
            spent.
        time_limit_s: the time limit, in seconds.

    Raises:
        DatabaseError: the database is unavailable; call it again later.
    """
    with time_limit(time_limit_s):
        closed = close_leases(runtime.get(Database).engine, worker_id, keep=keep)
    for kept in closed.kept:
        count_unaccounted(kept.unit, float(kept.amount))
        log_event(
            "lease_kept",
            level="warning",
            worker_id=worker_id,
            budget=kept.period >> 32,
            period=kept.period,
            unit=kept.unit,
            amount=kept.amount,
            next_step="Records of this worker may be missing, so the budget counts this amount as spent. If it was not,"
            f" run `bin/gateway budgets release {worker_id} --free`.",
        )
