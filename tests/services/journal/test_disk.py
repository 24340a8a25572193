"""A disk that is full or missing: requests are refused or served, rows are kept or counted, and recording resumes."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.activity_tables import (
    ActivityTables,
    journal_directories,
    wait_until_adopted,
    wait_until_shipped,
)
from tests.support.postgres import Postgres
from tests.support.recording_process import RecordingProcess
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

# Room for about 600 requests and the journal's other files.
DISK_BYTES = 1_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system at `tmp_path`/journal, which `_fill` fills completely."""
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


def test_with_refuse_no_request_is_sent_while_the_disk_is_full_and_service_resumes(
    tmp_path: Path, disk: Path, database_url: str
) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "refuse"}) as process:
        process.ask("record", 50)
        wait_until_shipped(process)
        _fill(disk)
        process.ask("record", 50)  # A few more fit into the last page of the journal.
        counted = process.counted()
        process.ask("record", 300)
        assert process.counted() == counted
        assert process.ask("status")["writable"] is False
        wait_until(lambda: "journal_write_failed" in process.log_file.read_text())
        # Refused requests have rows too, which are delivered from memory. The last free bytes may have held the starts
        # of two requests whose ends, which are longer lines, did not fit: these two wait for room.
        wait_until(lambda: process.ask("status")["backlog_rows"] <= 2)
        _make_room(disk)
        wait_until(lambda: process.ask("status")["writable"])
        process.ask("record", 50)
        assert len(process.counted()) > len(counted)
        wait_until_shipped(process)
        assert set(ActivityTables(database_url).outcomes()) == process.counted() | process.refused()
        assert ActivityTables(database_url).check_balance()["unrecorded"] == 0


@soak_only(
    "services/journal/test_disk.py::test_with_refuse_no_request_is_sent_while_the_disk_is_full_and_service_resumes"
)
def test_with_serve_all_requests_are_served_and_recorded_while_the_database_answers(
    tmp_path: Path, disk: Path, database_url: str
) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "serve"}) as process:
        held = process.ask("hold", 10)
        _fill(disk)
        process.ask("record", 3000)
        assert len(process.counted()) > 2000
        process.ask("release")
        # If the start of a request is on the disk, its final line waits for the disk: the held ones and a few more.
        wait_until(lambda: len(ActivityTables(database_url).outcomes()) >= 2_990)
        _make_room(disk)
        wait_until_shipped(process)
        outcomes = ActivityTables(database_url).outcomes()
        assert set(outcomes) == process.counted() | process.refused()
        assert {outcomes[one] for one in held} == {"ok"}
        assert ActivityTables(database_url).check_balance()["unrecorded"] == 0


@soak_only(
    "services/journal/test_disk.py::test_with_refuse_no_request_is_sent_while_the_disk_is_full_and_service_resumes"
)
def test_without_disk_and_database_unrecorded_requests_are_counted_exactly(
    tmp_path: Path, disk: Path, victim: Postgres, victim_url: str
) -> None:
    with RecordingProcess(tmp_path, victim_url, {"JOURNAL_FULL": "serve"}) as process:
        process.ask("record", 100)
        wait_until_shipped(process)
        victim.stop()
        _fill(disk)
        process.ask("record", 13_000)
        # 10,000 rows fit into memory, and the first few into the last page of the journal.
        unrecorded = process.ask("status")["unrecorded"]
        assert 2_900 < unrecorded <= 3_000
        _make_room(disk)
        victim.start()
        wait_until_shipped(process)
        assert len(ActivityTables(victim_url).outcomes()) == 13_100 - unrecorded
        wait_until(lambda: ActivityTables(victim_url).check_balance()["unrecorded"] == unrecorded)
        assert set(ActivityTables(victim_url).outcomes()) <= process.counted() | process.refused()


def test_a_worker_that_dies_while_the_disk_is_full_leaves_a_balanced_ledger(
    tmp_path: Path, disk: Path, postgres: Postgres, database_url: str
) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "serve"}) as process:
        process.ask("record", 50)
        held = process.ask("hold", 3)
        _fill(disk)
        process.ask("record", 100)
        # As above: the last free bytes may have held the starts of two requests, whose ends are longer.
        wait_until(lambda: process.ask("status")["backlog_rows"] <= 2)
        # These rows are only in memory and are lost with the process. The requests may have been sent.
        process.ask("record_quickly", 20)
        process.kill()
    orphans = journal_directories(tmp_path)
    assert len(orphans) == 1
    _make_room(disk)
    with RecordingProcess(tmp_path, database_url, name="next") as adopter:
        adopter.ask("start")
        wait_until_adopted(orphans)
        tables = ActivityTables(database_url)
        outcomes = tables.outcomes()
        assert [outcomes[one] for one in held] == ["lost"] * 3
        ledger = tables.check_balance()
        assert (ledger["unrecorded"], ledger["unsent"], ledger["started"]) == (173 - len(outcomes), 0, 173)
        assert 15 <= ledger["unrecorded"] <= 20


def test_a_line_cut_by_a_file_size_limit_is_removed_again(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url, {"JOURNAL_FULL": "serve"}) as process:
        process.ask("record", 10)
        # Not a multiple of a line's length, so that the write that meets the limit is partial.
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


def test_making_the_directory_is_tried_again(tmp_path: Path, database_url: str) -> None:
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
