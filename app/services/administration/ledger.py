"""Makes the books of requests balance again after the database was restored."""

from __future__ import annotations

from datetime import date

from app.db import Database, write_connection
from app.db.reconciliation import Loss, select_uncounted, update_losses
from app.errors import Conflict
from app.runtime import get_component
from app.services.administration.audit import record_change


def reconcile_ledger(actor: str, *, closes_missing: bool) -> tuple[Loss, dict[date, int]]:
    """Counts what was lost with the database as lost in restores, so that the report on integrity is true again.

    Args:
        actor: who does, for the audit, which keeps the workers and their requests.
        closes_missing: whether workers that are missing ended after the backup, and will not come back.

    Returns:
        What was lost; and UTC day → how many records there are that the sums lack, which count as lost although they
        are there.

    Raises:
        Conflict: there are more records than requests begun, which no restore causes.
        DatabaseError: the database is unavailable or slow.
    """
    uncounted = select_uncounted(get_component(Database).direct_engine)
    with write_connection() as connection:
        loss = update_losses(connection, closes_missing=closes_missing)
        if loss.total < 0:
            raise Conflict(
                f"There are {-loss.total} more records than requests begun, which no restore causes. Nothing changed."
                " Keep a dump of the tables worker_ledger and worker, and report it as a fault of the gateway."
            )
        if loss.requests or loss.workers:
            workers = {worker.worker_id: worker.requests for worker in loss.workers}
            after = {"lost": loss.requests, "lost_in_all": loss.total, "workers": workers}
            if uncounted:
                after["uncounted"] = {day.isoformat(): requests for day, requests in uncounted.items()}
            record_change(connection, actor, "ledger.reconcile", "ledger", None, after)
    return loss, uncounted
