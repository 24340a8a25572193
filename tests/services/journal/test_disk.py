"""A disk that is full, read-only or gone: what is refused, what is kept, what is counted, and that it comes back."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.schema import upgrade_schema
from tests.support.activity_tables import ActivityTables, wait_until_shipped
from tests.support.postgres import Postgres, running_postgres
from tests.support.recording_process import RecordingProcess
from tests.support.waiting import wait_until

# Room for some 600 requests; the smallest that leaves room for a journal's own files.
DISK_BYTES = 1_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own at `tmp_path`/journal, filled to the brim by `_fill`."""
    journal = tmp_path / "journal"
    journal.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system; RLIMIT_FSIZE is tried instead")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(journal)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a file system; RLIMIT_FSIZE is tried instead")
    yield journal
    subprocess.run(["umount", "-l", str(journal)], check=True)


def _fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 100)
        except OSError:
            return


def _make_room(disk: Path) -> None:
    (disk / "filler").unlink()


def test_with_refuse_no_provider_is_asked_and_it_comes_back_by_itself(
    tmp_path: Path, disk: Path, database_url: str
) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "refuse"}) as process:
        process.ask("record", 50)
        wait_until_shipped(process)
        _fill(disk)
        process.ask("record", 50)  # The last page of the journal takes a few more.
        counted = process.counted()
        process.ask("record", 300)
        assert process.counted() == counted
        assert process.ask("status")["writable"] is False
        wait_until(lambda: "journal_write_failed" in process.log_file.read_text())
        # Refused requests have their rows too: PostgreSQL is there, and takes them from memory.
        wait_until(lambda: process.ask("status")["backlog_rows"] <= 1)
        _make_room(disk)
        wait_until(lambda: process.ask("status")["writable"])
        process.ask("record", 50)
        assert len(process.counted()) > len(counted)
        wait_until_shipped(process)
        assert set(ActivityTables(database_url).outcomes()) == process.counted() | process.refused()
        assert ActivityTables(database_url).check_balance()["unrecorded"] == 0


def test_with_serve_every_request_is_served_and_none_is_missing_while_the_database_is_there(
    tmp_path: Path, disk: Path, database_url: str
) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "serve"}) as process:
        held = process.ask("hold", 10)
        _fill(disk)
        process.ask("record", 3000)
        assert len(process.counted()) > 2000
        process.ask("release")
        # A final record whose start is on the disk waits for the disk: these, and what met the last bytes.
        wait_until(lambda: len(ActivityTables(database_url).outcomes()) >= 2_990)
        _make_room(disk)
        wait_until_shipped(process)
        outcomes = ActivityTables(database_url).outcomes()
        assert set(outcomes) == process.counted() | process.refused()
        assert {outcomes[one] for one in held} == {"ok"}
        assert ActivityTables(database_url).check_balance()["unrecorded"] == 0


def test_without_disk_and_database_what_is_missing_is_counted_exactly(tmp_path: Path, disk: Path) -> None:
    with running_postgres() as server:
        upgrade_schema(server.url)
        with RecordingProcess(tmp_path, server.url, {"JOURNAL_FULL": "serve"}) as process:
            process.ask("record", 100)
            wait_until_shipped(process)
            server.stop()
            _fill(disk)
            process.ask("record", 13_000)
            # 10,000 fit in memory, and the first few into the last page of the journal.
            unrecorded = process.ask("status")["unrecorded"]
            assert 2_900 < unrecorded <= 3_000
            _make_room(disk)
            server.start()
            wait_until_shipped(process)
            assert len(ActivityTables(server.url).outcomes()) == 13_100 - unrecorded
            wait_until(lambda: ActivityTables(server.url).check_balance()["unrecorded"] == unrecorded)
            assert set(ActivityTables(server.url).outcomes()) <= process.counted() | process.refused()


def test_a_worker_that_dies_while_the_disk_is_full_leaves_a_balanced_ledger(
    tmp_path: Path, disk: Path, postgres: Postgres, database_url: str
) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "serve"}) as process:
        process.ask("record", 50)
        held = process.ask("hold", 3)
        _fill(disk)
        process.ask("record", 100)
        wait_until(lambda: process.ask("status")["backlog_rows"] <= 1)
        # These are in memory alone: they die with the process, and nobody can say that they were not sent.
        process.ask("record_quickly", 20)
        process.kill()
    _make_room(disk)
    with RecordingProcess(tmp_path, database_url, name="next") as adopter:
        adopter.ask("start")
        tables = ActivityTables(database_url)
        wait_until(lambda: tables.integrity()[0]["in_flight"] == 0)
        outcomes = tables.outcomes()
        assert [outcomes[one] for one in held] == ["lost"] * 3
        ledger = tables.check_balance()
        assert (ledger["unrecorded"], ledger["unsent"], ledger["started"]) == (173 - len(outcomes), 0, 173)
        assert 15 <= ledger["unrecorded"] <= 20


def test_a_record_cut_by_the_limit_of_a_files_size_is_taken_back(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "serve"}) as process:
        process.ask("record", 10)
        # Not a multiple of any record's length: the write that meets the limit is a partial one.
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (100_003, resource.RLIM_INFINITY))
        process.ask("record", 1000)
        assert process.ask("status")["writable"] is False
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_until(lambda: process.ask("status")["writable"])
        process.ask("record", 10)
        wait_until_shipped(process)
        assert len(ActivityTables(database_url).outcomes()) == 1020
        assert "journal_line_skipped" not in process.log_file.read_text()
        ActivityTables(database_url).check_balance()


def test_a_directory_that_cannot_be_made_is_tried_again(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "journal").write_text("a file where the directory should be")
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "refuse"}) as process:
        process.ask("start")
        wait_until(lambda: process.ask("status")["writable"] is False)
        process.ask("record", 30)
        assert process.counted() == set()
        (tmp_path / "journal").unlink()
        wait_until(lambda: process.ask("status")["writable"])
        process.ask("record", 30)
        assert process.counted() != set()
        wait_until_shipped(process)
        assert set(ActivityTables(database_url).outcomes()) == process.counted() | process.refused()
