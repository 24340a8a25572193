"""Balances the ledger of requests again after the database was restored."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from app.db import Database, write_connection
from app.db.reconciliation import Loss, select_uncounted, update_losses
from app.db.recounting import update_sums_of_day
from app.db.workers import SilentWorkers, select_silent_workers
from app.errors import Conflict
from app.runtime import get_component
from app.services.administration.audit import record_change


class Reconciliation(NamedTuple):
    """The loss, the recounted days, and whether the call came too early.

    Attributes:
        loss: the loss.
        recounted: UTC day → records that the sums lacked; the day was recounted, so its sums are true again.
        uncounted: the same for days that could not be recounted; these records count as lost although they exist.
        silent: workers that were not closed, because they were silent for less than the time that makes one missing.
    """

    loss: Loss
    recounted: dict[date, int]
    uncounted: dict[date, int]
    silent: SilentWorkers

    @property
    def has_changes(self) -> bool:
        """Whether anything was corrected, so that the audit has an entry."""
        return bool(self.loss.requests or self.loss.workers or self.recounted)


def reconcile_ledger(actor: str, *, closes_missing: bool) -> Reconciliation:
    """Counts requests lost with the database as lost in restores, so that the integrity report balances again.

    Args:
        actor: who makes the change, for the audit, which keeps the workers and their requests.
        closes_missing: whether missing workers ended after the backup, and will not come back.

    Raises:
        Conflict: there are more records than requests begun, which no restore can cause.
        DatabaseError: the database is unavailable or slow. Recounted days remain so; another call continues.
    """
    engine = get_component(Database).direct_engine
    uncounted, recounted = select_uncounted(engine), dict[date, int]()
    for day in list(uncounted):
        if update_sums_of_day(engine, day):
            recounted[day] = uncounted.pop(day)
    with write_connection() as connection:
        loss = update_losses(connection, closes_missing=closes_missing)
        if loss.total < 0:
            raise Conflict(
                f"There are {-loss.total} more records than requests begun, which no restore causes. The ledger is as"
                " it was. Keep a dump of the tables worker_ledger and worker, and report it as a fault of the gateway."
            )
        result = Reconciliation(loss, recounted, uncounted, select_silent_workers(connection))
        if result.has_changes:
            workers = {worker.worker_id: worker.requests for worker in loss.workers}
            after = {"lost": loss.requests, "lost_in_all": loss.total, "workers": workers}
            for name, days in (("recounted", recounted), ("uncounted", uncounted)):
                if days:
                    after[name] = {day.isoformat(): requests for day, requests in days.items()}
            record_change(connection, actor, "ledger.reconcile", "ledger", None, after)
    return result
