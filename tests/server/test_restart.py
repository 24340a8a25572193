"""The workers that a start takes over, from the file of the previous main process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.server.restart import (
    Predecessors,
    _describe_main,
    _read_boot,
    _read_file,
    _read_start,
    _tell_unless_handed_over,
)

# A check before a start: it makes the file old twice, and each time waits for the sign that the start goes on.
CHECK = """
touch -t 200001010000 "$0.old"
for turn in 1 2; do
    touch -t 200001010000 "$0"
    for look in $(seq 500); do [ "$0" -nt "$0.old" ] && continue 2; sleep 0.02; done
    exit 1
done
exit 7
"""
# The id of no process, because it is above the kernel's maximum.
GONE = 1 << 23


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends at a signal."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "handover-8000.json"


def test_who_is_left_by_a_killed_main_process_is_told_to_drain(worker: subprocess.Popen[bytes], file: Path) -> None:
    killed, started = f"main 1 {_read_boot()}", str(_read_start(worker.pid))
    file.write_text(json.dumps({GONE: killed, GONE + 1: "1", worker.pid: started}))
    predecessors = Predecessors(file)
    assert predecessors.serving == [worker.pid]
    # The file still tells the worker that its own main process was killed.
    predecessors.note([1])
    assert _read_file(file) == {
        GONE: killed, os.getpid(): _describe_main(os.getpid()), worker.pid: started, 1: str(_read_start(1)),
    }  # fmt: skip
    predecessors.forget_own()
    assert _read_file(file) == {GONE: killed, worker.pid: started}
    predecessors.retire()
    assert worker.wait(30) == -signal.SIGTERM and not file.exists() and predecessors.serving == []
    predecessors.note([])
    assert list(_read_file(file)) == [os.getpid()]
    predecessors.forget_own()
    assert not file.exists()


def test_who_has_a_main_process_that_lives_is_left_alone(worker: subprocess.Popen[bytes], file: Path) -> None:
    Predecessors(file).note([worker.pid])
    assert len(_read_file(file)) == 2
    of_earlier_boot = json.dumps({GONE: "main 1 another", worker.pid: str(_read_start(worker.pid))})
    for content in (file.read_text(), of_earlier_boot):
        file.write_text(content)
        predecessors = Predecessors(file)
        predecessors.retire()
        assert predecessors.serving == [] and worker.poll() is None


def test_a_start_tells_the_old_workers_to_serve_on_while_it_waits_for_its_check(file: Path) -> None:
    with subprocess.Popen(["sh", "-c", CHECK, file]) as check:
        assert Predecessors(file).tell_until_end(check.pid) == 7


def test_a_process_that_has_the_id_of_a_worker_by_now_is_neither_handed_on_nor_told(
    worker: subprocess.Popen[bytes], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(json.dumps({worker.pid: _read_start(worker.pid)}))
    predecessors = Predecessors(file)
    assert predecessors.serving == [worker.pid]
    # The kernel gives an id again only after millions of processes, so the worker gets another start time instead.
    monkeypatch.setitem(predecessors._starts, worker.pid, "1")
    assert predecessors.hand_on([1]) == 1 and _read_file(file) == {1: str(_read_start(1))}
    predecessors.retire()
    worker.send_signal(signal.SIGVTALRM)  # The first signal that ends a process is the one that it reports.
    assert worker.wait(30) == -signal.SIGVTALRM


def test_a_directory_that_is_broken_does_not_prevent_a_stop(worker: subprocess.Popen[bytes], tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    file = directory / "handover-8000.json"
    file.write_text(json.dumps({worker.pid: _read_start(worker.pid)}))
    predecessors = Predecessors(file)
    directory.rename(tmp_path / "moved")
    directory.touch()
    predecessors.retire()
    assert worker.wait(30) == -signal.SIGTERM and predecessors.serving == []


def test_a_worker_tells_a_killed_main_process_from_one_that_has_handed_over(
    worker: subprocess.Popen[bytes], file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.server.restart._Orphan.file", file)
    predecessors = Predecessors(file)
    predecessors.hand_on([worker.pid])
    _tell_unless_handed_over(os.getpid())
    assert capfd.readouterr().err == ""
    predecessors.note([worker.pid])
    _tell_unless_handed_over(os.getpid())
    assert json.loads(capfd.readouterr().err)["event"] == "main_process_lost"
