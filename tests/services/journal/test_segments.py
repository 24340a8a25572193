"""The journal's files: whole records, rotation, torn lines, locks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.journal.recorder import Recorder
from app.services.journal.segment_format import (
    iterate_lines,
    list_directories,
    lock_directory,
    make_directory,
    parse_head,
    read_counters,
    read_lines,
    remove_directory,
    remove_unnamed_directories,
    segment_numbers,
    segment_path,
)
from app.services.journal.segment_reader import Position, Row, SegmentReader
from app.services.journal.segment_writer import SEGMENT_BYTES


def _row(request_id: str, padding: int = 600) -> bytes:
    return json.dumps({"request_id": request_id, "padding": "x" * padding}).encode()


def _ids(rows: list[Row]) -> list[str]:
    return [json.loads(row.content)["request_id"] for row in rows]


def _read_all(reader: SegmentReader) -> list[str]:
    ids: list[str] = []
    while rows := reader.read_batch():
        ids += _ids(rows)
        end = rows[-1].end
        assert end is not None
        reader.advance(end)
    return ids


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path, "refuse")


def test_final_records_are_read_in_order_and_start_records_are_not(recorder: Recorder) -> None:
    for number in range(2000):
        recorder.count_begun()
        recorder.write_start(f"{number}", _row(f"{number}"))
        recorder.write_final(f"{number}", _row(f"{number}"))
    reader = SegmentReader(recorder.writer.directory, Position(1, 0))
    assert _read_all(reader) == [f"{number}" for number in range(2000)]
    assert reader.read_batch() == []


def test_reading_continues_at_a_position_within_a_batch(recorder: Recorder) -> None:
    for number in range(100):
        recorder.write_final(f"{number}", _row(f"{number}"))
    reader = SegmentReader(recorder.writer.directory, Position(1, 0))
    rows = reader.read_batch()
    place = rows[41].end
    assert place is not None
    assert _ids(SegmentReader(recorder.writer.directory, place).read_batch()) == _ids(rows[42:])


def test_a_new_segment_begins_with_the_requests_in_flight_and_the_one_before_the_last_is_removed(
    recorder: Recorder,
) -> None:
    for number in range(3):
        recorder.count_begun()
        recorder.write_start(f"held-{number}", _row(f"held-{number}"))
    _fill_segment(recorder)
    reader = SegmentReader(recorder.writer.directory, Position(1, 0))
    recorder.write_final("held-1", _row("held-1"))
    shipped = _read_all(reader)
    assert segment_numbers(recorder.writer.directory) == [1, 2], "one stays, for a database that goes back"
    lines = list(iterate_lines(segment_path(recorder.writer.directory, 2)))
    assert parse_head(lines[0]) == len(shipped) - sum(line.startswith(b"F") for line in lines)
    starts = [json.loads(line[1:])["request_id"] for line in lines if line.startswith(b"S")]
    assert starts[:3] == ["held-0", "held-1", "held-2"]
    assert shipped[-1] == "held-1"
    _fill_segment(recorder)
    _read_all(reader)
    assert segment_numbers(recorder.writer.directory) == [2, 3]


def _fill_segment(recorder: Recorder) -> None:
    number, before = 0, recorder.writer.segment
    while recorder.writer.segment <= max(before, 1):
        number += 1
        recorder.count_begun()
        recorder.write_start(f"f{number}", _row(f"f{number}", 50_000))
        recorder.write_final(f"f{number}", _row(f"f{number}", 50_000))


def test_more_requests_in_flight_than_a_segment_holds_do_not_rotate_at_each_record(recorder: Recorder) -> None:
    for number in range(60):
        recorder.count_begun()
        recorder.write_start(f"{number}", _row(f"{number}", SEGMENT_BYTES // 30))
    before = recorder.writer.segment
    for number in range(20):
        recorder.write_final(f"{number}", _row(f"{number}"))
    assert recorder.writer.segment - before <= 1


def test_a_last_line_without_its_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "0000000001.journal"
    path.write_bytes(b'H{"finished":0}\nF' + _row("a") + b"\nF" + _row("b")[:-5])
    assert len(read_lines(path, 0).lines) == 2
    assert _read_all(SegmentReader(tmp_path, Position(1, 0))) == ["a"]


def test_a_torn_line_in_the_middle_costs_only_that_line(tmp_path: Path) -> None:
    torn = b"F" + _row("torn")[:300]
    content = b"\n".join([b"F" + _row("a"), torn, b"F" + _row("b"), b"\0\0\0", b"F\xff\xfe", b"", b"F" + _row("c")])
    (tmp_path / "0000000001.journal").write_bytes(content + b"\n")
    assert _read_all(SegmentReader(tmp_path, Position(1, 0))) == ["a", "b", "c"]


def test_a_torn_end_does_not_hide_the_next_segment(tmp_path: Path) -> None:
    (tmp_path / "0000000001.journal").write_bytes(b"F" + _row("a") + b"\nF{")
    (tmp_path / "0000000003.journal").write_bytes(b"F" + _row("b") + b"\n")
    assert _read_all(SegmentReader(tmp_path, Position(1, 0))) == ["a", "b"]


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 60))
def test_lines_are_read_whole_for_any_size_of_a_read(lengths: list[int], limit: int) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"lines-{os.getpid()}"
    lines = [b"x" * length for length in lengths]
    path.write_bytes(b"".join(line + b"\n" for line in lines) + b"torn")
    found, offset = [], 0
    while (read := read_lines(path, offset, limit)).lines:
        found += read.lines
        offset = read.end
    path.unlink()
    assert found == lines


def test_a_locked_directory_is_not_given_to_another_process(tmp_path: Path) -> None:
    directory = tmp_path / "worker"
    lock = make_directory(directory)
    assert lock is not None
    assert not _lock_elsewhere(directory)
    os.close(lock)
    assert _lock_elsewhere(directory)


def _lock_elsewhere(directory: Path) -> bool:
    code = "import sys, pathlib; from app.services.journal.segment_format import lock_directory as lock\n"
    code += "sys.exit(lock(pathlib.Path(sys.argv[1])) is None)"
    return subprocess.run([sys.executable, "-c", code, str(directory)], check=False).returncode == 0


def test_a_removed_directory_cannot_be_locked(tmp_path: Path) -> None:
    directory = tmp_path / "worker"
    first = make_directory(directory)
    assert first is not None
    remove_directory(directory)
    assert not directory.exists()
    assert lock_directory(directory) is None
    os.close(first)


def test_a_new_directory_is_never_taken_for_that_of_a_dead_worker(tmp_path: Path) -> None:
    stopped, taken = threading.Event(), list[Path]()

    def adopt() -> None:
        while not stopped.is_set():
            for directory in list_directories(tmp_path):
                descriptor = lock_directory(directory)
                if descriptor is not None:
                    taken.append(directory)
                    os.close(descriptor)

    adopters = [threading.Thread(target=adopt) for _ in range(3)]
    for adopter in adopters:
        adopter.start()
    made = [make_directory(tmp_path / uuid.uuid4().hex) for _ in range(300)]
    stopped.set()
    for adopter in adopters:
        adopter.join()
    assert not taken
    assert None not in made
    assert len(list_directories(tmp_path)) == 300
    for descriptor in made:
        os.close(descriptor or -1)


def test_a_directory_that_is_removed_is_never_taken_for_that_of_a_dead_worker(tmp_path: Path) -> None:
    directories = [tmp_path / uuid.uuid4().hex for _ in range(300)]
    made = [make_directory(directory) for directory in directories]
    for directory in directories:
        (directory / "0000000001.journal").write_bytes(b"")
    taken = list[Path]()

    def remove() -> None:
        for directory in directories:
            remove_directory(directory)

    remover = threading.Thread(target=remove)
    remover.start()
    while remover.is_alive():
        for directory in list_directories(tmp_path):
            descriptor = lock_directory(directory)
            if descriptor is not None:
                taken.append(directory)
                os.close(descriptor)
    remover.join()
    assert not taken
    assert list(tmp_path.iterdir()) == []
    for descriptor in made:
        os.close(descriptor or -1)


def test_what_a_worker_left_that_died_while_it_made_its_directory_is_removed(tmp_path: Path) -> None:
    left, fresh = tmp_path / f"{1:032x}.tmp", tmp_path / f"{2:032x}.tmp"
    for directory in (left, fresh):
        directory.mkdir()
        (directory / "lock").touch()
    os.utime(left, (0, 0))
    remove_unnamed_directories(tmp_path)
    assert list(tmp_path.iterdir()) == [fresh]
    # The worker that is still making its directory goes on.
    descriptor = make_directory(tmp_path / f"{2:032x}")
    assert descriptor is not None
    os.close(descriptor)
    assert [path.name for path in tmp_path.iterdir()] == [f"{2:032x}"]


def test_counters_survive_the_death_of_their_process(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
from app.services.journal.recorder import Recorder
recorder = Recorder(pathlib.Path(sys.argv[1]), "refuse")
for number in range(1000):
    recorder.count_begun()
    recorder.write_start(f"{number}", b"{}")
recorder.count_sent_without_start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    [directory] = tmp_path.iterdir()
    assert read_counters(directory) == (1000, 0, 1)


def test_deleted_files_are_noticed_and_the_requests_in_flight_survive(recorder: Recorder) -> None:
    for name in ("gone", "held"):
        recorder.count_begun()
        recorder.write_start(name, _row(name))
    recorder.write_final("gone", _row("gone"))
    remove_directory(recorder.writer.directory)
    recorder.flush_and_probe()
    recorder.write_final("held", _row("held"))
    counts = recorder.get_counts()
    assert (counts.begun, counts.in_flight, counts.final_lines, counts.unrecorded) == (2, 0, 1, 1)
    assert read_counters(recorder.writer.directory)[0] == 2
    assert _read_all(SegmentReader(recorder.writer.directory, Position(1, 0))) == ["held"]


def test_a_forked_child_does_not_write_the_journal_of_its_parent(tmp_path: Path) -> None:
    code = """
import os, sys
from app.runtime import get_component
from app.services.journal import Journal, start_journal
def record():
    journal = get_component(Journal)
    record = journal.begin("env", "/v1/x")
    journal.write_final(record)
    return record.request_id.encode(), journal._recorder.writer.directory
start_journal()
request_id, directory = record()
if os.fork() == 0:
    os._exit(0 if record()[1] != directory else 1)
assert os.wait()[1] == 0
from app.services.journal.segment_format import lock_directory
assert lock_directory(directory) is None, "the child released the lock"
[final] = [line for line in next(directory.glob("*.journal")).read_bytes().splitlines() if line.startswith(b"F")]
assert request_id in final
"""
    environment = {**os.environ, "JOURNAL_DIR": str(tmp_path), "DATABASE_URL": "postgresql://x@/x?host=/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
