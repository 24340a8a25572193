"""The journals of dead workers are adopted: finished requests are shipped, unfinished ones are lost."""

from __future__ import annotations

import os
import random
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.config import load_settings
from app.db import create_engine_for
from app.db.ledger import LedgerLine, select_ledger_line, upsert_ledger
from app.runtime import get_runtime, use_settings
from app.services.journal.adoption import AdoptedJournal, adopt_journals
from app.services.journal.kept import return_directories
from app.services.journal.orphans import OrphanDelivery
from app.services.journal.segment_format import lock_directory
from tests.support.activity_tables import (
    ActivityTables,
    adopt_all,
    check_against_provider,
    journal_directories,
    wait_until_adopted,
    wait_until_shipped,
)
from tests.support.budget_sums import BudgetSums
from tests.support.gateway import base_settings
from tests.support.recording_process import RecordingProcess
from tests.support.soak import FULL, soak_count, soak_only
from tests.support.waiting import wait_until


def test_finished_requests_are_shipped_and_unfinished_ones_are_lost(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        finished = process.ask("record_quickly", 100)
        held = process.ask("hold", 7)
        process.ask("begin_only", 3)
        process.kill()
    adopt_all(tmp_path, database_url)
    tables = ActivityTables(database_url)
    outcomes = tables.outcomes()
    assert {one for one, outcome in outcomes.items() if outcome == "lost"} == set(held)
    assert set(outcomes) == process.counted() | process.refused() and len(outcomes) == finished + 7
    ledger = tables.check_balance()
    assert (ledger["started"], ledger["unsent"], ledger["in_flight"], ledger["unshipped"]) == (110, 3, 0, 0)


def test_the_row_of_a_lost_request_has_no_invented_values(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("hold", 1)
        process.kill()
    adopt_all(tmp_path, database_url)
    [row] = ActivityTables(database_url).select("SELECT * FROM activity")
    assert (row.outcome, row.gateway, row.usage_source, row.cost_kind) == ("lost", "fireworks", "none", "unknown")
    unknown = (row.duration_ms, row.prompt_tokens, row.completion_tokens, row.cost_usd, row.finish_reason)
    assert unknown == (None,) * 5


def test_a_live_worker_adopts_the_journal_of_a_dead_one(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url, name="live") as live:
        live.ask("start")
        own = wait_until(lambda: journal_directories(tmp_path), what="the live worker's directory")
        dead = RecordingProcess(tmp_path, database_url)
        dead.ask("record_quickly", 200)
        [orphan] = set(journal_directories(tmp_path)) - set(own)
        dead.kill()
        wait_until_adopted([orphan])
        assert len(ActivityTables(database_url).outcomes()) == 200
        assert journal_directories(tmp_path) == own


def test_the_journal_of_a_live_worker_is_not_adopted(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as owner:
        held = owner.ask("hold", 3)
        with RecordingProcess(tmp_path, database_url, name="other") as other:
            other.ask("record", 100)
            wait_until_shipped(other)
        owner.ask("release")
        wait_until_shipped(owner)
        assert {ActivityTables(database_url).outcomes()[one] for one in held} == {"ok"}


@soak_only("services/journal/test_orphans.py::test_a_live_worker_adopts_the_journal_of_a_dead_one")
def test_workers_that_adopt_concurrently_share_the_journals(tmp_path: Path, database_url: str) -> None:
    dead = [RecordingProcess(tmp_path, database_url, name=f"dead-{number}") for number in range(6)]
    for process in dead:
        process.ask("record_quickly", 200)
        process.ask("hold", 5)
    for process in dead:  # Kills all before waiting, because survivors adopt the journals of the dead.
        process.process.kill()
    for process in dead:
        process.close()
    orphans = journal_directories(tmp_path)
    assert len(orphans) == 6
    with ExitStack() as stack:
        adopters = [RecordingProcess(tmp_path, database_url, name=f"{number}") for number in range(3)]
        for adopter in adopters:
            stack.enter_context(adopter)
            adopter.send("start")
        wait_until_adopted(orphans)
        assert "traceback" not in "".join(adopter.log_file.read_text() for adopter in adopters)
    check_against_provider(ActivityTables(database_url), dead, streams=5)
    assert len(ActivityTables(database_url).outcomes()) == 6 * 205


@soak_only("services/journal/test_orphans.py::test_a_live_worker_adopts_the_journal_of_a_dead_one")
@pytest.mark.soak
def test_adopters_that_die_in_the_middle_are_replaced_by_others(tmp_path: Path, database_url: str) -> None:
    records = 20_000 if FULL else 6_000  # More than one adopter can ship before it dies.
    with RecordingProcess(tmp_path, database_url) as dead:
        dead.ask("record_quickly", records)
        dead.ask("hold", 600)
        dead.kill()
    for number in range(soak_count(40)):
        adopter = RecordingProcess(tmp_path, database_url, name=f"adopter-{number}")
        adopter.ask("start")
        time.sleep(random.uniform(0.0, 0.5))
        adopter.kill()
    adopt_all(tmp_path, database_url)
    check_against_provider(ActivityTables(database_url), [dead], streams=600)
    assert len(ActivityTables(database_url).outcomes()) == records + 600


def test_rows_that_are_in_the_database_are_not_shipped_again(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("record", 500)
        wait_until_shipped(process)
        # As retention does, which drops rows and keeps the sums. Rows shipped again would be counted twice.
        ActivityTables(database_url).execute("DELETE FROM activity")
        process.kill()
    adopt_all(tmp_path, database_url)
    assert ActivityTables(database_url).outcomes() == {}
    assert ActivityTables(database_url).check_balance()["started"] == 500


def start_delivery(directory: Path) -> OrphanDelivery:
    lock = lock_directory(directory)
    assert lock is not None
    return OrphanDelivery(get_runtime(), directory, lock)


def test_lost_requests_that_are_in_the_database_are_not_counted_again(tmp_path: Path, database_url: str) -> None:
    tables, sums = ActivityTables(database_url), BudgetSums(database_url)
    with RecordingProcess(tmp_path, database_url) as process:
        limits = [{"id": "alice", "kind": "holder", "budgets": [sums.add_budget("1000000")]}]
        process.ask("limit", limits)
        process.ask("record", 3)
        process.ask("hold_reserved", 700, 100)
        wait_until(lambda: tables.integrity()[0]["in_flight"] == 700, what="the ledger")
        process.kill()
    [directory] = journal_directories(tmp_path)
    copy, kept = tmp_path / directory.name, tmp_path / "journal" / "delivered" / directory.name
    shutil.copytree(directory, copy)
    use_settings(load_settings(base_settings(tmp_path, database_url)))

    def check(lost: int) -> None:
        """Compares the sums, and then forgets the records, as the restore of a dump without them does."""
        assert tables.check_balance()["in_flight"] == 700 - lost
        assert tables.integrity()[1]["lost"] == lost
        [(charged, requests)] = tables.select("SELECT sum(ceiling), sum(requests) FROM budget_charge")
        assert (charged, requests) == (100 * lost, lost)
        tables.execute("DELETE FROM activity")

    died = start_delivery(directory)
    assert died.deliver_next()
    died.release()
    check(lost=500)
    second = start_delivery(directory)
    while second.deliver_next():
        pass
    check(lost=700)
    assert (second.delivered, second.lost) == (200, 200) and second.finish(keeps=True)
    # `db reconcile-ledger` does so after the restore of a dump from before the end of the adoption.
    tables.execute("UPDATE worker SET closed_how = 'reconciled'")
    assert return_directories(get_runtime()) == 1 and not kept.exists()
    third = start_delivery(directory)
    while third.deliver_next():
        pass
    check(lost=700)
    assert third.delivered == 0 and third.finish(keeps=True) and kept.exists()
    adopted: list[AdoptedJournal] = []
    adopt_journals(copy, adopted.append)
    check(lost=700)
    assert adopted == [AdoptedJournal(worker_id=copy.name, delivered=0, lost=0, is_closed=True)]
    use_settings(None)


def test_a_journal_that_a_power_cut_shortened_has_its_lost_requests(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        held = process.ask("hold", 3)
        process.ask("record", 30)
        wait_until_shipped(process)
        process.kill()
    [directory] = journal_directories(tmp_path)
    [segment] = directory.glob("*.journal")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:4]))  # The head and the first requests: less than the ledger says.
    adopt_all(tmp_path, database_url)
    outcomes = ActivityTables(database_url).outcomes()
    assert len(outcomes) == 33 and {one for one in outcomes if outcomes[one] == "lost"} == set(held)


def test_a_record_torn_by_the_death_of_its_writer_makes_the_request_lost(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        [held] = process.ask("hold", 1)
        process.kill()
    [directory] = journal_directories(tmp_path)
    [segment] = directory.glob("*.journal")
    with segment.open("ab") as file:
        file.write(b'F{"request_id":"%s","started_at":"2026' % held.encode())
    adopt_all(tmp_path, database_url)
    assert ActivityTables(database_url).outcomes() == {held: "lost"}
    ActivityTables(database_url).check_balance()


def test_damaged_and_empty_directories_do_not_stop_the_adoption_of_others(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("record_quickly", 10)
        process.kill()
    empty, damaged = tmp_path / "journal" / ("0" * 32), tmp_path / "journal" / ("1" * 32)
    empty.mkdir()
    damaged.mkdir()
    (damaged / "0000000001.journal").write_bytes(os.urandom(100_000))
    (damaged / "counters").write_bytes(b"\1")
    adopt_all(tmp_path, database_url)
    assert len(ActivityTables(database_url).outcomes()) == 10


def test_an_older_line_of_the_ledger_does_not_replace_a_newer_one(database_url: str) -> None:
    engine = create_engine_for(database_url)
    newer = LedgerLine(worker_id="a", version=5, started=10)
    upsert_ledger(engine, newer)
    upsert_ledger(engine, LedgerLine(worker_id="a", version=4, started=9))
    assert select_ledger_line(engine, "a") == newer
    upsert_ledger(engine, LedgerLine(worker_id="a", version=6, started=11))
    line = select_ledger_line(engine, "a")
    assert line is not None and line.started == 11
    engine.dispose()


@soak_only("services/journal/test_orphans.py::test_finished_requests_are_shipped_and_unfinished_ones_are_lost")
@pytest.mark.soak
def test_workers_killed_again_and_again_lose_only_requests_in_flight(tmp_path: Path, database_url: str) -> None:
    processes: list[RecordingProcess] = []
    with RecordingProcess(tmp_path, database_url, name="live") as live:
        live.ask("flood", 20)
        for number in range(soak_count(60)):
            process = RecordingProcess(tmp_path, database_url, name=f"{number}")
            process.ask("flood", 20)
            time.sleep(random.uniform(0.1, 1.2))
            process.kill()
            processes.append(process)
        processes.append(live)
        live.kill()
    adopt_all(tmp_path, database_url)
    check_against_provider(ActivityTables(database_url), processes, streams=20)


def test_a_stop_also_delivers_what_dead_workers_have_left(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url, name="last") as last:
        last.ask("start")
        wait_until(lambda: journal_directories(tmp_path), what="its directory")
        dead = RecordingProcess(tmp_path, database_url)
        dead.ask("record_quickly", 30)
        dead.ask("hold", 2)
        dead.kill()
        assert last.ask("stop", 10) is True
        assert "dead_journals_left" not in last.log_file.read_text()
    assert len(ActivityTables(database_url).outcomes()) == 32 and journal_directories(tmp_path) == []


def test_a_stop_without_a_database_says_what_dead_workers_have_left(tmp_path: Path) -> None:
    nowhere = "postgresql+psycopg2://user@127.0.0.1:1/none"
    with RecordingProcess(tmp_path, nowhere, name="last") as last:
        last.ask("start")
        wait_until(lambda: journal_directories(tmp_path), what="its directory")
        dead = RecordingProcess(tmp_path, nowhere)
        dead.ask("record_quickly", 30)
        dead.kill()
        last.ask("stop", 3)
        assert '"rows":30' in next(
            line for line in last.log_file.read_text().splitlines() if "dead_journals_left" in line
        )
