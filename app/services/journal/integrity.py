"""Reports the outcome of all requests ever begun, and the workers and hosts that the report covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from app.db import read_connection
from app.db.charge_check import ChargeCheck, select_charge_check
from app.db.lease_sums import Mistake, select_mistakes
from app.db.ledger import select_integrity
from app.db.workers import WorkerRow, select_unregistered, select_worker_counts, select_workers

# The most workers and hosts that the report lists; it counts all.
MAX_LISTED = 200

Kind = TypeVar("Kind", bound=msgspec.Struct)


class EarlierVersions(msgspec.Struct, frozen=True):
    """Workers of versions before the registry; whether they live is not known. Their counts are in the sums."""

    workers: int
    in_flight: int
    unshipped: int


class WorkerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The workers that the report covers, by their state.

    Attributes:
        live: seen within the last three minutes.
        missing: neither closed nor seen since; or closed with rows left, which nobody has adopted since.
        closed: ended within the last week. The counts of earlier ones are in the sums, but not they themselves.
        written_off: the operator gave their journals up, and nobody has delivered them since.
        earlier_versions: those that do not register.
    """

    live: int
    missing: int
    closed: int
    written_off: int
    earlier_versions: EarlierVersions


class HostWorkers(msgspec.Struct, frozen=True):
    """The number of workers of one host."""

    host: str | None
    live: int
    missing: int


class LiveWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that lives, with the counts of its last delivery; times are by PostgreSQL's clock."""

    worker_id: str
    host: str | None
    pid: int | None
    version: str | None
    started_at: datetime | None
    last_seen_at: datetime | None
    in_flight: int
    unshipped: int


class MissingWorker(LiveWorker, frozen=True, kw_only=True):
    """A worker that may hold records, as LiveWorker.

    Attributes:
        boot_id: of the host's kernel then; another one now means that the host was restarted.
        journal: the directory on the host that has its records.
        advice: what it may hold, and what to do about it.
    """

    boot_id: str | None
    journal: str
    advice: str


class WrittenOffWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker whose journal the operator gave up; how many records it had is not known."""

    worker_id: str
    host: str | None
    last_seen_at: datetime | None
    closed_at: datetime | None


class LimitsIntegrity(msgspec.Struct, frozen=True, kw_only=True):
    """Whether leases, charges and budgets agree with each other and with the records.

    Attributes:
        balanced: whether there is no mistake and no period whose charges are not those of the records.
        mistakes: how many grants are not the sum of what workers have drawn, and how many leases of ended workers are
            not what their requests were charged. `bin/gateway budgets check` lists them.
        overdrawn: periods of which more is granted than their budgets have. That is no mistake.
        periods_checked: periods that began within 25 hours and were compared with the records; None if a period has too
            many requests for that, or records of that time are gone, as after the restore of a dump without records.
        periods_different: those whose charges are not the sum of their records'.
    """

    balanced: bool
    mistakes: int
    overdrawn: int
    periods_checked: int | None
    periods_different: int


class Integrity(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of all requests ever begun, by what became of them, of all workers that share the database.

    Attributes:
        started: requests begun, as the workers counted them.
        outcomes: outcome → rows, as the rollups counted them.
        in_flight, unshipped, unrecorded, rejected, unsent: requests without a row; see worker_ledger in
            app/db/tables.py.
        lost_in_restores: requests whose records were lost with a database that was restored, as `bin/gateway db
            reconcile-ledger` counted them. They are known and named, so the counts balance with them.
        balanced: whether started is the sum of all others, no request has lost its row for good, and no worker is
            written off. It is about what the workers have reported, so it does not say what a missing worker did after
            its last report.
        limits: the same about budgets; `balanced` does not depend on it.
        workers: how many workers reported.
        hosts: those with workers that live or are missing, by name, at most MAX_LISTED.
        live: the workers that live, the oldest first, at most MAX_LISTED.
        missing: the workers that may hold records, as `live`.
        written_off: the workers whose records were given up, as `live`.
    """

    started: int
    outcomes: dict[str, int]
    in_flight: int
    unshipped: int
    unrecorded: int
    rejected: int
    unsent: int
    lost_in_restores: int
    balanced: bool
    limits: LimitsIntegrity
    workers: WorkerCounts
    hosts: list[HostWorkers]
    live: list[LiveWorker]
    missing: list[MissingWorker]
    written_off: list[WrittenOffWorker]


class Balance(NamedTuple):
    """The shortest form of the report: whether it is balanced, and how many workers are missing."""

    balanced: bool
    missing_workers: int


def select_balance() -> Balance:
    """Returns whether the records balance, as in the report, by two statements that read no record.

    Raises:
        DatabaseError: the database is unavailable.
    """
    with read_connection() as connection:
        ledger, outcomes = select_integrity(connection)
        states = _count_states(select_worker_counts(connection))
    return Balance(_is_balanced(ledger, outcomes, states["written_off"]), states["missing"])


def select_integrity_report() -> Integrity:
    """Returns the counts of all requests ever begun by all workers that share the database, from one snapshot.

    Raises:
        DatabaseError: the database is unavailable.
    """
    with read_connection() as connection:
        ledger, outcomes = select_integrity(connection)
        counts = select_worker_counts(connection)
        earlier = select_unregistered(connection)
        live = select_workers(connection, "live", MAX_LISTED)
        missing = select_workers(connection, "missing", MAX_LISTED)
        written_off = select_workers(connection, "written_off", MAX_LISTED)
        mistakes, check = select_mistakes(connection), select_charge_check(connection)
    return Integrity(
        outcomes=outcomes,
        **ledger,
        balanced=_is_balanced(ledger, outcomes, len(written_off)),
        limits=_make_limits(mistakes, check),
        workers=WorkerCounts(**_count_states(counts), earlier_versions=EarlierVersions(*earlier)),
        hosts=_list_hosts(counts)[:MAX_LISTED],
        live=[_pick(LiveWorker, row) for row in live],
        missing=[_make_missing(row) for row in missing],
        written_off=[_pick(WrittenOffWorker, row) for row in written_off],
    )


def _is_balanced(ledger: Mapping[str, int], outcomes: Mapping[str, int], written_off: int) -> bool:
    # A written-off worker's last report may be older than an outage, so its `unrecorded` may be too low or even zero.
    is_complete = not ledger["rejected"] and not ledger["unrecorded"] and not written_off
    return is_complete and 2 * ledger["started"] == sum(ledger.values()) + sum(outcomes.values())


def _make_limits(found: Sequence[Mistake], check: ChargeCheck | None) -> LimitsIntegrity:
    overdrawn = sum(mistake.kind == "above" for mistake in found)
    different = 0 if check is None else check.different
    return LimitsIntegrity(
        balanced=len(found) == overdrawn and not different,
        mistakes=len(found) - overdrawn,
        overdrawn=overdrawn,
        periods_checked=None if check is None else check.periods,
        periods_different=different,
    )


def _count_states(counts: dict[tuple[str, str | None], int]) -> dict[str, int]:
    states = ("live", "missing", "closed", "written_off")
    return {state: sum(number for key, number in counts.items() if key[0] == state) for state in states}


def _list_hosts(counts: dict[tuple[str, str | None], int]) -> list[HostWorkers]:
    hosts = sorted({host for state, host in counts if state in {"live", "missing"}}, key=lambda host: host or "")
    return [HostWorkers(host, counts.get(("live", host), 0), counts.get(("missing", host), 0)) for host in hosts]


def _pick(kind: type[Kind], row: WorkerRow) -> Kind:
    return kind(**{name: getattr(row, name) for name in kind.__struct_fields__})


def _make_missing(row: WorkerRow) -> MissingWorker:
    shared = {name: getattr(row, name) for name in LiveWorker.__struct_fields__}
    journal = f"{row.journal_dir or 'JOURNAL_DIR'}/{row.worker_id}"
    return MissingWorker(**shared, boot_id=row.boot_id, journal=journal, advice=_advise(row, journal))


def _advise(row: WorkerRow, journal: str) -> str:
    host = row.host or "its host"
    if row.closed_at is None:
        holds = (
            "It may hold the records of requests that it began after its last report, and of those that it reported:"
            f" {row.in_flight} in flight, {row.unshipped} that had ended."
        )
    else:
        left = row.in_flight + row.unshipped
        holds = f"It stopped and left records, those of at least {left} {'request' if left == 1 else 'requests'}."
    if row.has_neighbour:
        act = (
            f"A gateway runs on {host} and would have adopted {journal}. If process {row.pid} still runs there, it"
            " hangs: end it. If the directory is gone,"
        )
    else:
        act = (
            f"They are in {journal} on {host}. If the worker runs there, it delivers them when it reaches the database."
            " Otherwise start a gateway there with the same JOURNAL_DIR. If the directory is gone for good,"
        )
    return f"{holds} {act} run `bin/gateway activity write-off {row.worker_id}`."
