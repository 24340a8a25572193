"""Retention: creates the partitions of the days ahead, drops rows older than RETENTION_DAYS, and forgets old workers.

Every worker does this in a background thread. Locks in the database admit one worker at a time; the others then find
nothing to do. No request waits for it.

PostgreSQL's clock decides which rows are old. While it and this machine's clock differ by more than MAX_SKEW, one of
them is wrong and nothing is dropped: a clock that is months ahead would make every record old.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

from app.db import Database, describe_error, read_connection, time_limit
from app.db.clock import Clocks, read_clocks
from app.db.kept_answers import delete_expired_answers
from app.db.lease_merging import merge_old_leases
from app.db.partitions import drop_partitions, insert_partitions_ahead, select_partition_days
from app.db.rollup_pruning import delete_fine_rollups
from app.db.workers import delete_closed_workers
from app.logs import log_event
from app.metrics import set_clock_skew
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component

# Rows become old once a day; rollups are deleted hourly so that each deletion stays small.
INTERVAL_S = 3_600.0
# After a failure, for instance while the database is unavailable, the next round comes sooner.
RETRY_S = 60.0
# Synchronised clocks differ by milliseconds. Kerberos tolerates five minutes too.
MAX_SKEW = timedelta(minutes=5)
# Spreads the rounds of workers that started together.
_JITTER = 0.1
# Each statement ends after 10 s by the server's own limit; this limit is for a frozen server. If it interrupts a long
# drop of many days, the next round continues.
STEP_TIME_LIMIT_S = 300.0


class RetentionJob(Component):
    """The background thread of one worker that applies retention."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._has_succeeded = False
        self._task = PeriodicTask(
            "retention",
            self._run,
            pause_s=self._choose_pause_s,
            on_error=lambda error: _log_failure("round", error),
        )

    def start(self) -> None:
        """Starts the thread; later calls do nothing."""
        self._task.start()

    def _run(self) -> None:
        self._has_succeeded = False
        self._has_succeeded = self.run_round()

    def _choose_pause_s(self) -> float:
        return (INTERVAL_S if self._has_succeeded else RETRY_S) * random.uniform(1 - _JITTER, 1 + _JITTER)

    def run_round(self) -> bool:
        """Runs one round by PostgreSQL's clock and returns whether all of it succeeded; failures are logged."""
        try:
            with time_limit(STEP_TIME_LIMIT_S), self.runtime.get(Database).engine.connect() as connection:
                clocks = read_clocks(connection)
        except Exception as error:
            _log_failure("clocks_read", error)
            return False
        set_clock_skew(abs(clocks.skew.total_seconds()))
        if not is_skewed(clocks):
            return self.apply(clocks.database)
        log_event("retention_skipped", level="error", reason=_describe_skew(clocks))
        _attempt("partitions_made", lambda: self._make_partitions(clocks.database))
        return False

    def apply(self, now: datetime) -> bool:
        """Creates and drops the partitions due at `now`; returns whether all steps succeeded.

        A failed step is logged, and the next one runs.
        """
        before = self.get_first_kept_day(now.astimezone(UTC).date())
        steps: list[tuple[str, Callable[[], object]]] = [
            ("partitions_made", lambda: self._make_partitions(now)),
            ("partitions_dropped", lambda: list(drop_partitions(self.runtime.get(Database).direct_engine, before))),
            ("rollups_deleted", lambda: delete_fine_rollups(self.runtime.get(Database).engine, now)),
            ("leases_merged", lambda: merge_old_leases(self.runtime.get(Database).engine, now)),
            ("answers_deleted", lambda: delete_expired_answers(self.runtime.get(Database).engine)),
            ("workers_deleted", lambda: delete_closed_workers(self.runtime.get(Database).engine, now)),
        ]
        # A list, so that a failed step does not skip the next one.
        succeeded = [_attempt(event, step) for event, step in steps]
        return all(succeeded)

    def _make_partitions(self, now: datetime) -> list[date]:
        return insert_partitions_ahead(self.runtime.get(Database).engine, now.astimezone(UTC).date())

    def get_first_kept_day(self, today: date) -> date:
        """Returns the first UTC day that RETENTION_DAYS keeps; `today` and that many days before it are kept."""
        return today - timedelta(days=self.settings.retention_days)

    def close(self) -> None:
        """Ends the thread after its current round."""
        self._task.close()


def _attempt(event: str, step: Callable[[], object]) -> bool:
    try:
        with time_limit(STEP_TIME_LIMIT_S):
            result = step()
    except Exception as error:
        _log_failure(event, error)
        return False
    if result:
        log_event(event, result=result)
    return True


def _log_failure(step: str, error: Exception) -> None:
    log_event("retention_failed", level="error", step=step, reason=describe_error(error))


def is_skewed(clocks: Clocks) -> bool:
    """Returns whether the two clocks differ so much that nothing may be dropped."""
    return abs(clocks.skew) > MAX_SKEW


def _describe_skew(clocks: Clocks) -> str:
    return (
        f"PostgreSQL's clock says {clocks.database:%Y-%m-%d %H:%M:%S} UTC and this machine's "
        f"{clocks.host:%Y-%m-%d %H:%M:%S}, so no record is dropped as old. Set the one that is wrong."
    )


def start_retention() -> None:
    """Starts retention in this process. Called once per worker, after the fork."""
    get_component(RetentionJob).start()


def select_first_kept_day(chosen: date | None) -> date:
    """Returns the first UTC day to keep: `chosen`, or the first one by RETENTION_DAYS.

    Raises:
        ValueError: the clocks differ too much for RETENTION_DAYS, or `chosen` is after the current day by one of them.
        DatabaseError: the database is unavailable.
    """
    with read_connection() as connection:
        clocks = read_clocks(connection)
    if chosen is None:
        if is_skewed(clocks):
            raise ValueError(f"{_describe_skew(clocks)} Or name a day with --before.")
        return get_component(RetentionJob).get_first_kept_day(clocks.database.date())
    if chosen > min(clocks).date():
        raise ValueError("The current day cannot be dropped. Use today or an earlier day as --before.")
    return chosen


def select_droppable_days(before: date) -> list[date]:
    """Returns the UTC days before `before` that have a partition, oldest first.

    Raises:
        DatabaseError: the database is unavailable.
    """
    with read_connection() as connection:
        return [day for day in select_partition_days(connection) if day < before]


def drop_days(before: date) -> Iterator[date]:
    """Drops the rows of activity of the UTC days before `before`, and yields each day after its drop.

    Raises:
        DatabaseError: the database is unavailable, or another transaction held a lock for too long.
    """
    return drop_partitions(get_component(Database).direct_engine, before)
