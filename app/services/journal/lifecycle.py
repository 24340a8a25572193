"""The journal of a process: records requests, ships the records while it runs, and reports its state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import msgspec

from app.db import describe_error
from app.errors import Unavailable
from app.logs import log_event
from app.runtime import Component, Runtime, get_component
from app.services.journal.kept import put_away
from app.services.journal.lease_closing import close_leases_of
from app.services.journal.orphan_backlog import OrphanBacklog
from app.services.journal.record import ActivityRecord, encode_record, make_record
from app.services.journal.recorder import Counts, Recorder
from app.services.journal.registration import CLOSE_TIME_LIMIT_S
from app.services.journal.segment_reader import parse_ended_at
from app.services.journal.shipper import Shipper

# The journal checks twice a second whether the disk has room again. A disk that stays full needs an operator.
RETRY_AFTER_S = 5.0

# How long `close` waits for a running statement. Only tests close a journal without stopping it first.
_CLOSE_TIMEOUT_S = 1.0


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a process's journal.

    Attributes:
        writable: whether the last write succeeded.
        backlog_rows: rows that are not in the database yet.
        backlog_bytes: the size of the files that hold them.
        oldest_age_s: seconds since the oldest of their requests ended; None without any.
        unrecorded: requests without a row, because neither the disk nor memory had room.
        rejected_rows: rows that PostgreSQL refused even after their repair; they are in rejected.jsonl.
        shipped_rows: rows written to the database.
        last_error: the error with which writing or shipping fails now; None if both work.
        orphaned: the journals of dead workers in JOURNAL_DIR; not included in the backlog above.
        counts_orphaned: whether this process's gauges include `orphaned`; only one process's do.
    """

    writable: bool
    backlog_rows: int
    backlog_bytes: int
    oldest_age_s: float | None
    unrecorded: int
    rejected_rows: int
    shipped_rows: int
    last_error: str | None
    orphaned: OrphanBacklog
    counts_orphaned: bool


class Journal(Component):
    """Records the requests of this process and ships the records.

    A request is counted when it begins, recorded before it is sent to a provider, and recorded again when it has ended.
    Recording works at once; shipping begins with `start`, which a worker calls after the fork.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._recorder = Recorder(self.settings.journal_dir, self.settings.journal_full, runtime.worker_id)
        self._shipper = Shipper(runtime, self._recorder)

    def begin(self, key_id: str, endpoint: str) -> ActivityRecord:
        """Counts a request as begun and returns its record.

        Args:
            key_id: the public id of the gateway key.
            endpoint: the path of the route.
        """
        self._recorder.count_begun()
        return make_record(key_id, endpoint)

    def write_start(self, record: ActivityRecord) -> None:
        """Writes a record right before the provider is called. If the process dies after this, the outcome is `lost`.

        Raises:
            Unavailable: the journal cannot be written, and JOURNAL_FULL is "refuse"; or the request is charged to a
                budget, which needs its record, unless BUDGET_OUTAGE is "serve".
        """
        try:
            self._recorder.write_start(record.request_id, encode_record(record))
        except OSError as error:
            settings = self.settings
            if settings.journal_full == "refuse" or (record.budget_periods and settings.budget_outage == "refuse"):
                raise Unavailable(
                    "The gateway cannot record requests now, so it accepts none. "
                    "Retry; if this persists, tell the operator.",
                    code="journal_unavailable",
                    retry_after_s=RETRY_AFTER_S,
                ) from error
            self._recorder.count_sent_without_start()

    def withdraw(self) -> None:
        """Reverts a `begin`, because another record counts the request. Call it in place of `write_final`."""
        self._recorder.count_withdrawn()

    def write_final(self, record: ActivityRecord) -> None:
        """Writes the record of a request that has ended. It never raises.

        Call it once for each `begin`, unless that was withdrawn.
        """
        try:
            self._recorder.write_final(record.request_id, encode_record(record))
        except Exception as error:
            # A bug in the gateway must not cost the client its response. The request stays counted as in flight.
            log_event("record_write_failed", level="error", error=error, request_id=record.request_id)

    def start(self, describe: Callable[[], bytes | None] | None = None) -> None:
        """Starts shipping; later calls do nothing. `describe` returns this worker's state for the registry."""
        if describe is not None:
            self._shipper.registration.describe = describe
        self._shipper.start()

    def stop(self, timeout_s: float) -> bool:
        """Ships for up to `timeout_s` seconds, closes the leases and the files; returns whether everything is shipped.

        Rows that are left are adopted by another worker, or by the next one to start.
        """
        drained = self._shipper.stop(max(0.0, timeout_s - 2 * CLOSE_TIME_LIMIT_S))
        counts = self._recorder.get_counts()
        how: Literal["drained", "left_rows"] = "drained" if drained else "left_rows"
        is_registered = self._shipper.registration.close(how, has_begun=counts.begun > 0)
        if drained and is_registered and self._close_leases(counts):
            # Moved while the lock is held, so that no other worker adopts the directory. If the registry could not be
            # told, the directory stays, and the worker that adopts it tells the registry.
            put_away(self._recorder.writer.directory, keeps=True)
        elif not drained:
            self._report_left_rows(counts)
        self._report_orphans()
        self._recorder.close()
        return drained

    def _close_leases(self, counts: Counts) -> bool:
        """Returns unspent draws to their budgets; returns whether that succeeded."""
        if not counts.begun:
            return True
        line = self._shipper.own.make_ledger_line([])
        keep = counts.unrecorded > 0 or line.rejected > 0
        try:
            close_leases_of(self.runtime, self._recorder.worker_id, keep=keep, time_limit_s=CLOSE_TIME_LIMIT_S)
        except Exception as error:
            log_event("lease_close_failed", level="error", reason=describe_error(error))
            return False
        return True

    def _report_left_rows(self, counts: Counts) -> None:
        rows = self._shipper.own.make_ledger_line([]).unshipped - counts.in_memory
        if not (rows or counts.in_flight or counts.in_memory):
            return
        log_event(
            "journal_left",
            level="error" if counts.in_memory else "warning",
            rows=rows,
            in_flight=counts.in_flight,
            rows_in_memory=counts.in_memory,
            directory=str(self._recorder.writer.directory),
            next_step="Keep the directory. Another worker of this host, or the next start of the gateway, with the same"
            " JOURNAL_DIR, writes these rows to the database.",
        )

    def _report_orphans(self) -> None:
        """Logs the backlog of dead workers, because after the last worker's end nobody delivers it before a start."""
        try:
            left = self._shipper.orphans.measure_now()
        except OSError as error:
            log_event("orphans_measure_failed", level="error", error=error)
            return
        if left.rows:
            log_event(
                "dead_journals_left",
                level="warning",
                journals=left.journals,
                rows=left.rows,
                directory=str(self.settings.journal_dir),
                next_step="Keep the directory. The next start of the gateway with this JOURNAL_DIR writes these rows"
                " to the database, as does `bin/gateway journal adopt` from wherever the directory is.",
            )

    def get_status(self) -> JournalStatus:
        """Returns the state of the journal."""
        own = self._shipper.own
        line = own.make_ledger_line([])
        error = self._recorder.error or self._shipper.error
        return JournalStatus(
            writable=self._recorder.error is None,
            backlog_rows=line.unshipped,
            backlog_bytes=own.reader.measure_backlog_bytes() if line.unshipped else 0,
            oldest_age_s=_compute_age_s(own.read_oldest()) if line.unshipped else None,
            unrecorded=line.unrecorded,
            rejected_rows=line.rejected,
            shipped_rows=self._recorder.shipped_lines + line.direct - line.rejected,
            last_error=None if error is None else f"{type(error).__name__}: {error}".partition("\n")[0],
            orphaned=self._shipper.orphans.read_backlog(),
            counts_orphaned=self._shipper.orphans.is_chosen,
        )

    def close(self) -> None:
        """Ends shipping and releases the files, which keep unshipped rows."""
        self._shipper.stop(_CLOSE_TIMEOUT_S)
        self._shipper.orphans.abandon()
        self._recorder.close()

    def abandon(self) -> None:
        """Closes a forked child's copies of the descriptors; the parent's keep the lock."""
        self._shipper.orphans.abandon()
        self._recorder.writer.close()


def _compute_age_s(content: bytes | None) -> float | None:
    """Returns the seconds since the request of a row ended."""
    return None if content is None else max(0.0, time.time() - parse_ended_at(content))


def start_journal(describe: Callable[[], bytes | None] | None = None) -> None:
    """Starts shipping this process's records. A worker calls it once, after the fork.

    Args:
        describe: returns this worker's state as JSON for the registry, or None for no state.
    """
    get_component(Journal).start(describe)


def stop_journal(timeout_s: float) -> bool:
    """Ships the records of this process for up to `timeout_s` seconds and closes its files.

    Returns:
        Whether everything is shipped. Rows that are left are adopted by another worker, or by the next one to start.
    """
    return get_component(Journal).stop(timeout_s)


def get_journal_status() -> JournalStatus:
    """Returns the state of this process's journal."""
    return get_component(Journal).get_status()
