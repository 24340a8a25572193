"""The registry of workers: their states, and the deletion of old ones, which changes no sum of the ledger."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from app.db.hosts import update_written_off
from app.db.ledger import LedgerLine, select_integrity, select_ledger_line, upsert_ledger
from app.db.workers import (
    EARLIER_WORKERS,
    KEPT,
    MISSING_AFTER_S,
    Registration,
    UnregisteredLines,
    delete_closed_workers,
    select_unregistered,
    select_worker_counts,
    select_workers,
    upsert_closed,
    upsert_seen,
)
from app.services.journal import integrity
from tests.support.soak import examples

PARTS = ("in_flight", "unshipped", "unrecorded", "rejected", "unsent")
NOW = datetime.now(UTC)
CLOSINGS = ["drained", "left_rows", "adopted", "written_off", "reconciled"]


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """A database shared by the tests of this file, each of which calls `_empty` first."""
    return file_engine


def _empty(engine: Engine) -> None:
    _execute(engine, "TRUNCATE worker, worker_ledger")


def _execute(engine: Engine, sql: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql), values)


def _register(engine: Engine, worker_id: str, host: str = "a", journal_dir: str = "/journal") -> None:
    one = Registration(worker_id=worker_id, host=host, boot_id="b", pid=7, version="v", journal_dir=journal_dir)
    upsert_seen(engine, one, age_s=60)


def _move(engine: Engine, worker_id: str, seconds: float, column: str = "last_seen_at") -> None:
    sql = f"UPDATE worker SET {column} = {column} - make_interval(secs => :seconds) WHERE worker_id = :worker_id"
    _execute(engine, sql, seconds=seconds, worker_id=worker_id)


def _write_line(engine: Engine, worker_id: str, version: int = 1, **parts: int) -> LedgerLine:
    line = LedgerLine(worker_id=worker_id, version=version, started=sum(parts.values()), **parts)
    upsert_ledger(engine, line)
    return line


def _write_off(engine: Engine, worker_id: str) -> dict[str, int]:
    with engine.begin() as connection:
        return update_written_off(connection, worker_id=worker_id)


def _ids(engine: Engine, state: str) -> list[str]:
    with engine.connect() as connection:
        return [row.worker_id for row in select_workers(connection, state, 100)]  # type: ignore[arg-type]


def _sums(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return select_integrity(connection)[0]


def test_a_worker_is_live_then_missing_then_closed(engine: Engine) -> None:
    _empty(engine)
    for worker_id in ("1", "2"):
        _register(engine, worker_id)
    assert _ids(engine, "live") == ["1", "2"] and _ids(engine, "missing") == []
    _move(engine, "1", MISSING_AFTER_S + 1)
    assert _ids(engine, "live") == ["2"] and _ids(engine, "missing") == ["1"]
    _register(engine, "1")
    assert _ids(engine, "live") == ["1", "2"]
    upsert_closed(engine, "1", "drained")
    upsert_closed(engine, "2", "left_rows")
    assert _ids(engine, "live") == _ids(engine, "missing") == []
    # A report that was sent before the end but is carried out after it changes nothing.
    _register(engine, "1")
    assert _ids(engine, "live") == []
    _move(engine, "2", MISSING_AFTER_S + 1, "closed_at")
    assert _ids(engine, "missing") == ["2"]
    upsert_closed(engine, "2", "adopted")
    upsert_closed(engine, "never registered", "adopted")
    # The worker's own statement about its end, carried out late.
    upsert_closed(engine, "2", "left_rows")
    _move(engine, "2", MISSING_AFTER_S + 1, "closed_at")
    with engine.connect() as connection:
        assert select_worker_counts(connection) == {("closed", None): 3}


def test_a_worker_has_a_neighbour_where_one_would_adopt_its_journal(engine: Engine) -> None:
    _empty(engine)
    places = {"gone": ("a", "/1"), "same": ("a", "/1"), "far": ("b", "/1"), "alone": ("a", "/2"), "other": ("b", "/2")}
    for worker_id, (host, journal_dir) in places.items():
        _register(engine, worker_id, host, journal_dir)
    for worker_id in ("gone", "alone"):
        _move(engine, worker_id, 1_000)
    with engine.connect() as connection:
        rows = select_workers(connection, "missing", 100)
    assert {row.worker_id: row.has_neighbour for row in rows} == {"gone": True, "alone": False}


def test_a_line_without_a_row_is_of_an_earlier_version_and_never_deleted(engine: Engine) -> None:
    _empty(engine)
    _write_line(engine, "old", in_flight=3, unshipped=2, unsent=1)
    _write_line(engine, "idle")
    _register(engine, "new")
    _write_line(engine, "new", in_flight=5)
    assert delete_closed_workers(engine, NOW + 100 * KEPT) == 0
    with engine.connect() as connection:
        assert select_unregistered(connection) == UnregisteredLines(workers=2, in_flight=3, unshipped=2)


def test_a_missing_worker_is_written_off_and_corrected_if_its_journal_turns_up(engine: Engine) -> None:
    _empty(engine)
    _register(engine, "1")
    _write_line(engine, "1", in_flight=3, unshipped=2)
    assert _write_off(engine, "1") == {}, "it lives"
    _move(engine, "1", 1_000)
    assert _write_off(engine, "1") == {"1": 5}
    assert _write_off(engine, "1") == {}, "it is written off already"
    sums = _sums(engine)
    assert (sums["in_flight"], sums["unshipped"], sums["unrecorded"], sums["started"]) == (0, 0, 5, 5)
    assert delete_closed_workers(engine, NOW + 100 * KEPT) == 0
    # From its adopter, or from the worker itself if only its network was down.
    _write_line(engine, "1", version=2, unsent=5)
    _register(engine, "1")
    assert _sums(engine)["unrecorded"] == 0 and _ids(engine, "live") == ["1"]


def test_the_ledger_does_not_balance_while_a_worker_is_written_off_that_had_reported_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _empty(engine)
    monkeypatch.setattr(integrity, "read_connection", engine.connect)
    for worker_id in ("idle", "no line"):
        _register(engine, worker_id)
        _move(engine, worker_id, 1_000)
    _write_line(engine, "idle")
    assert integrity.select_integrity_report().balanced and integrity.select_balance() == (True, 2)
    assert _write_off(engine, "idle") | _write_off(engine, "no line") == {"idle": 0, "no line": 0}
    report = integrity.select_integrity_report()
    assert (report.unrecorded, report.missing, report.balanced) == (0, [], False)
    assert report.workers.written_off == 2 and {one.worker_id for one in report.written_off} == {"idle", "no line"}
    assert (report.workers.closed, report.hosts) == (0, [])
    upsert_closed(engine, "idle", "adopted")
    assert not integrity.select_integrity_report().balanced and integrity.select_balance() == (False, 0)
    upsert_closed(engine, "no line", "adopted")
    report = integrity.select_integrity_report()
    assert report.balanced and (report.workers.written_off, report.workers.closed, report.written_off) == (0, 2, [])


@st.composite
def workers(draw: st.DrawFn) -> tuple[str | None, float, dict[str, int] | None]:
    """Draws how a worker was closed (None: it was not), how many days ago, and its ledger line (None: it has none)."""
    counts = st.one_of(st.just(0), st.integers(0, 10**12))
    line = st.fixed_dictionaries(dict.fromkeys(PARTS, counts))
    return draw(st.sampled_from([None, *CLOSINGS])), draw(st.floats(0, 14)), draw(st.one_of(st.none(), line))


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.lists(workers(), max_size=8), max_size=3))
def test_the_deletion_of_old_workers_changes_no_sum(
    engine: Engine, rounds: list[list[tuple[str | None, float, dict[str, int] | None]]]
) -> None:
    _empty(engine)
    kept: set[str] = set()
    for number, group in enumerate(rounds):
        for place, (how, days, line) in enumerate(group):
            worker_id = f"{number}-{place}"
            _register(engine, worker_id)
            if how is not None:
                at = NOW - timedelta(days=days)
                sql = "UPDATE worker SET closed_at = :at, closed_how = :how WHERE worker_id = :worker_id"
                _execute(engine, sql, at=at, how=how, worker_id=worker_id)
            if line is not None:
                _write_line(engine, worker_id, **line)
            is_done = line is None or not (line["in_flight"] or line["unshipped"])
            if not (how in {"drained", "adopted"} and timedelta(days=days) > KEPT and is_done):
                kept.add(worker_id)
        before = _sums(engine)
        delete_closed_workers(engine, NOW)
        assert _sums(engine) == before
    with engine.connect() as connection:
        left = set(connection.execute(text("SELECT worker_id FROM worker")).scalars())
        lines = set(connection.execute(text("SELECT worker_id FROM worker_ledger")).scalars())
    assert left == kept and lines - {EARLIER_WORKERS} <= kept


def test_the_sums_are_equal_at_every_instant_beside_shipping_and_other_deletions(engine: Engine) -> None:
    _empty(engine)
    for number in range(300):
        worker_id = f"closed-{number}"
        upsert_closed(engine, worker_id, "drained")
        _write_line(engine, worker_id, unsent=number)
    over = threading.Event()
    shipping = [threading.Thread(target=_ship, args=(engine, f"live-{number}", over)) for number in range(2)]
    deleting = [threading.Thread(target=_delete_in_steps, args=(engine,)) for _ in range(2)]
    for thread in [*shipping, *deleting]:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in deleting):
        seen.append(_sums(engine))
    over.set()
    for thread in [*shipping, *deleting]:
        thread.join()
    assert {sums["unsent"] for sums in seen} == {sum(range(300))}
    assert all(sums["started"] == sum(sums[part] for part in PARTS) for sums in seen)
    line = select_ledger_line(engine, EARLIER_WORKERS)
    assert line is not None and line.started == line.unsent == sum(range(300))
    with engine.connect() as connection:
        assert select_unregistered(connection).workers == 2


def _ship(engine: Engine, worker_id: str, over: threading.Event) -> None:
    for version in range(1, 1_000_000):
        if over.is_set():
            return
        _write_line(engine, worker_id, version=version, in_flight=random.randrange(100))


def _delete_in_steps(engine: Engine) -> None:
    """Deletes 300 workers as they become old, one after the other."""
    for number in range(0, 300, 10):
        sql = "UPDATE worker SET closed_at = :at WHERE worker_id = ANY(:ids)"
        _execute(engine, sql, at=NOW - 2 * KEPT, ids=[f"closed-{number + place}" for place in range(10)])
        delete_closed_workers(engine, NOW)
