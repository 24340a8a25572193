"""One live worker measures the backlog of dead workers, exactly and without the database, and all read its result."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.journal import orphan_backlog, segment_writer
from app.services.journal.orphan_backlog import OrphanBacklog, OrphanMeter
from app.services.journal.recorder import Recorder
from app.services.journal.segment_format import iterate_lines, mark_adopted, segment_numbers, segment_path
from app.services.journal.segment_reader import Position, SegmentReader

EMPTY = OrphanBacklog(journals=0, rows=0, bytes=0, oldest_age_s=None)


@pytest.fixture(autouse=True, scope="module")
def _short_segments_and_no_pause() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_writer, "SEGMENT_BYTES", 1_000)
        patch.setattr(orphan_backlog, "MEASURE_INTERVAL_S", 0)
        yield


def _row(number: int) -> bytes:
    content = {"request_id": f"{number}", "started_at": "2026-03-14T12:00:00Z", "duration_ms": 1000.0 * number}
    return json.dumps(content | {"padding": "x" * 50}).encode()


class _Worker:
    """A worker that records and delivers requests, without a database."""

    def __init__(self, root: Path) -> None:
        self.recorder = Recorder(root, "refuse")
        self.directory = self.recorder.writer.directory
        self.reader = SegmentReader(self.directory, Position(1, 0))
        self.begun = 0
        self.in_flight: list[int] = []

    def begin(self) -> None:
        self.recorder.count_begun()
        self.recorder.write_start(f"{self.begun}", _row(self.begun))
        self.in_flight.append(self.begun)
        self.begun += 1

    def end(self, place: int) -> None:
        number = self.in_flight.pop(place % len(self.in_flight))
        self.recorder.write_final(f"{number}", _row(number))

    def refuse(self) -> None:
        self.recorder.count_begun()
        self.recorder.write_final(f"{self.begun}", _row(self.begun))
        self.begun += 1

    def deliver(self, count: int) -> None:
        rows = self.reader.read_batch()[:count]
        if rows and rows[-1].end is not None:
            self.reader.advance(rows[-1].end)
            self.recorder.writer.write_position(*rows[-1].end)

    def die(self) -> None:
        self.recorder.close()


def _measure(root: Path) -> OrphanBacklog:
    meter = OrphanMeter(root, "0" * 32)
    meter.measure_if_due()
    assert meter.is_chosen
    backlog = meter.read_backlog()
    meter.abandon()
    return backlog


def _count_by_hand(worker: _Worker) -> int:
    """Returns the backlog, counted by reading all S lines and all lines after the delivered position."""
    finals, starts = set[str](), set[str]()
    for number in segment_numbers(worker.directory):
        offset = 0
        for line in iterate_lines(segment_path(worker.directory, number)):
            offset += len(line) + 1
            if line.startswith(b"S"):
                starts.add(json.loads(line[1:])["request_id"])
            elif line.startswith(b"F"):
                starts.discard(json.loads(line[1:])["request_id"])
                if Position(number, offset) > worker.reader.position:
                    finals.add(json.loads(line[1:])["request_id"])
    return len(finals | starts)


STEPS = st.tuples(st.sampled_from(["begin", "end", "refuse", "deliver"]), st.integers(0, 12))


@settings(deadline=None)
@given(st.lists(st.lists(STEPS, max_size=60), max_size=3))
def test_it_is_what_all_lines_of_the_files_say(histories: list[list[tuple[str, int]]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        workers = [_Worker(root) for _ in histories]
        for worker, history in zip(workers, histories, strict=True):
            for step, number in history:
                if step in {"begin", "refuse"}:
                    getattr(worker, step)()
                elif step == "end" and worker.in_flight:
                    worker.end(number)
                elif step == "deliver":
                    worker.deliver(number)
            worker.die()
        backlog = _measure(root)
        assert backlog.rows == sum(_count_by_hand(worker) for worker in workers)
        assert backlog.journals == sum(worker.directory.exists() for worker in workers)
        assert (backlog.bytes > 0, backlog.oldest_age_s is not None) == (backlog.rows > 0, backlog.rows > 0)


def test_its_age_is_that_of_the_oldest_row(tmp_path: Path) -> None:
    first, second = _Worker(tmp_path), _Worker(tmp_path)
    for worker in (first, second):
        for _ in range(30):
            worker.refuse()
    first.deliver(10)
    second.deliver(20)
    for worker in (first, second):
        worker.die()
    meter = OrphanMeter(tmp_path, "0" * 32)
    meter.measure_if_due()
    before = meter.read_backlog()
    first.reader.advance(Position(10**6, 0))  # As its delivery does.
    meter.measure_if_due()
    after = meter.read_backlog()
    assert (before.rows, after.rows, after.journals) == (30, 10, 2) and after.bytes < before.bytes
    assert before.oldest_age_s is not None and after.oldest_age_s is not None
    assert round(before.oldest_age_s - after.oldest_age_s) == 10


def test_one_of_the_live_workers_measures_and_all_read(tmp_path: Path) -> None:
    dead, live, adopted = _Worker(tmp_path), _Worker(tmp_path), _Worker(tmp_path)
    for worker in (dead, live, adopted):
        worker.refuse()
    dead.die()
    mark_adopted(adopted.directory)  # The adopting worker still holds the lock.
    meters = [OrphanMeter(tmp_path, live.recorder.worker_id) for _ in range(3)]
    assert meters[1].read_backlog() == EMPTY
    for meter in meters:
        meter.measure_if_due()
    assert [meter.is_chosen for meter in meters] == [True, False, False]
    assert [(meter.read_backlog().journals, meter.read_backlog().rows) for meter in meters] == [(2, 2)] * 3
    meters[0].abandon()
    assert _measure(tmp_path).rows == 2, "another one takes over"
    (tmp_path / "orphans").unlink()
    assert meters[1].read_backlog() == EMPTY
    live.die()
    assert _measure(tmp_path).rows == 3


def test_a_directory_that_is_being_made_or_is_damaged_is_no_obstacle(tmp_path: Path) -> None:
    worker = _Worker(tmp_path)
    worker.refuse()
    assert _measure(tmp_path) == EMPTY, "it lives"
    worker.die()
    (tmp_path / ("1" * 32)).mkdir()
    damaged = tmp_path / ("2" * 32)
    damaged.mkdir()
    (damaged / "lock").touch()
    (damaged / "counters").write_bytes(b"\1")
    (damaged / "0000000001.journal").write_bytes(os.urandom(100_000))
    assert _measure(tmp_path).rows == 1
