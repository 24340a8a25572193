"""A journal that cannot be locked, read or removed costs no descriptor, and stops neither the others nor the worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.config import load_settings
from app.runtime import Runtime
from app.services.journal.orphan_adopter import OrphanAdopter
from app.services.journal.segment_format import remove_unnamed_directories
from tests.support.activity_tables import ActivityTables, journal_directories
from tests.support.gateway import base_settings
from tests.support.recording_process import RecordingProcess


def count_descriptors(place: Path) -> int:
    """Returns how many files below `place` this process has open; a lock that was unlinked keeps its path."""
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # Another thread has closed it, or it is that of the list itself.
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(path.startswith(str(place)) for path in paths)


def deliver_all(adopter: OrphanAdopter) -> None:
    adopter.search_now()
    while adopter.deliver_next():
        pass


@pytest.fixture
def adopter(tmp_path: Path, database_url: str) -> Iterator[OrphanAdopter]:
    """An adopter beside the journal of a worker that died after five requests."""
    with RecordingProcess(tmp_path, database_url, name="dead") as dead:
        dead.ask("record_quickly", 5)
        dead.kill()
    runtime = Runtime(load_settings(base_settings(tmp_path, database_url)))
    adopter = OrphanAdopter(runtime, "own")
    yield adopter
    adopter.close()
    runtime.close()


def test_a_journal_that_cannot_be_removed_is_delivered_and_closes_no_file_of_others(
    adopter: OrphanAdopter, tmp_path: Path, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (directory,) = journal_directories(tmp_path)
    # Neither of its renames can succeed.
    blocks = (directory.parent / "delivered", directory.with_name(directory.name + ".tmp"))
    for block in blocks:
        block.touch()
    deliver_all(adopter)
    assert len(ActivityTables(database_url).outcomes()) == 5
    said = capfd.readouterr().err
    assert said.count("journal_removal_failed") == 1 and "journal_adopted" not in said
    # Whoever gets the number of the lock's descriptor keeps it.
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    deliver_all(adopter)
    adopter.close()
    for other in others:
        os.close(other)  # Fails if it is closed already.
    assert directory.exists()
    for block in blocks:
        block.unlink()
    adopter._later_s.clear()  # As after a minute.
    deliver_all(adopter)
    assert not directory.exists() and "journal_adopted" in capfd.readouterr().err
    assert len(ActivityTables(database_url).outcomes()) == 5


@pytest.mark.parametrize("broken", ["lock", "0000000001.journal"])
def test_a_journal_that_cannot_be_read_stops_no_other(
    adopter: OrphanAdopter, tmp_path: Path, broken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (directory,) = journal_directories(tmp_path)
    bad = directory.with_name("0" * 32)
    (bad / broken).mkdir(parents=True)  # A directory in place of a file: the superuser could read any file.
    deliver_all(adopter)
    before = count_descriptors(tmp_path)
    assert not directory.exists() and bad.exists()
    deliver_all(adopter)
    said = capfd.readouterr().err
    assert said.count("journal_adoption_failed") == 1, "it is left for a minute"
    assert str(bad) in said and count_descriptors(tmp_path) == before


def test_a_directory_that_cannot_be_removed_costs_no_descriptor(tmp_path: Path) -> None:
    unnamed = tmp_path / ("0" * 32 + ".tmp")
    (unnamed / "directory").mkdir(parents=True)
    before = count_descriptors(tmp_path)
    for _ in range(3):
        os.utime(unnamed, (time.time() - 3_600,) * 2)
        remove_unnamed_directories(tmp_path)
    assert unnamed.exists() and count_descriptors(tmp_path) == before
