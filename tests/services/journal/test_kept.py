"""Delivered journals of the last six days are kept, up to the newest 64 MB."""

from __future__ import annotations

import os
import time
from pathlib import Path

from app.config import load_settings
from app.runtime import Runtime
from app.services.journal.kept import KEPT_BYTES, KEPT_S, put_away, return_directories
from app.services.journal.segment_format import COUNTERS, encode_counters

DAY_S = 86_400
# As docs/backup.md promises.
assert (KEPT_BYTES, KEPT_S) == (64 << 20, 6 * DAY_S)


def end_worker(root: Path, number: int, size: int, begun: int = 1) -> Path:
    """Makes and keeps the directory of an ended worker, with a segment of that many bytes; returns its path."""
    directory = root / f"{number:032x}"
    directory.mkdir(parents=True)
    (directory / COUNTERS).write_bytes(encode_counters(begun, 0, 0))
    with (directory / "0000000001.journal").open("wb") as segment:
        segment.truncate(size)
    assert put_away(directory, keeps=True) and not directory.exists()
    return root / "delivered" / directory.name


def make_older(directory: Path, seconds: float) -> None:
    os.utime(directory, (time.time() - seconds,) * 2)


def test_the_newest_are_kept_up_to_a_size(tmp_path: Path) -> None:
    counters = len(encode_counters(1, 0, 0))
    kept = [end_worker(tmp_path, number, (8 << 20) - counters) for number in range(8)]
    for age, directory in enumerate(reversed(kept)):
        make_older(directory, 60 * age + 60)
    small = end_worker(tmp_path, 8, 0)
    assert [directory.exists() for directory in (*kept, small)] == [False] + [True] * 8, "64 MB and some bytes"
    make_older(small, 30)
    large = end_worker(tmp_path, 9, KEPT_BYTES - counters)
    assert [directory.name for directory in (tmp_path / "delivered").iterdir()] == [large.name], "64 MB exactly"
    make_older(large, 30)
    end_worker(tmp_path, 10, KEPT_BYTES)
    assert list((tmp_path / "delivered").iterdir()) == [], "one that is too large leaves no room for older ones"


def test_none_is_kept_longer_than_six_days_or_without_requests(tmp_path: Path) -> None:
    old, older = end_worker(tmp_path, 0, 1_000), end_worker(tmp_path, 1, 1_000)
    make_older(old, 6 * DAY_S - 60)
    make_older(older, 6 * DAY_S + 60)
    # A journal that is too old is not needed, so it is not given back either. The next kept one removes it.
    make_older(old, 6 * DAY_S + 60)
    away = load_settings({"DATABASE_URL": "postgresql://x@/x?host=/nowhere", "JOURNAL_DIR": str(tmp_path)})
    assert return_directories(Runtime(away), went_back=True) == 0 and old.exists() and older.exists()
    make_older(old, 6 * DAY_S - 60)
    idle = end_worker(tmp_path, 2, 1_000, begun=0)
    assert old.exists() and older.exists() and not idle.exists(), "nothing was kept, so nothing is looked through"
    end_worker(tmp_path, 3, 1_000)
    assert old.exists() and not older.exists()
