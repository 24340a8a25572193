"""The commands for journals of vanished hosts, and how these hosts are shown."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import text

from app import create_app
from app.config import load_settings
from app.db import get_engine
from app.db.workers import Registration, upsert_seen
from app.runtime import use_settings
from app.services.administration import AuditFilter, select_audit_page
from app.services.health import Readiness, check_readiness
from tests.support.activity_tables import ActivityTables, journal_directories
from tests.support.gateway import base_settings
from tests.support.recording_process import RecordingProcess

Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Iterator[Run]:
    """A function that runs a command of `flask journal`, on a fresh database and on a host with an empty journal."""
    (tmp_path / "here").mkdir()
    runner = create_app(load_settings(base_settings(tmp_path / "here", database_url))).test_cli_runner()
    yield lambda *arguments: runner.invoke(args=["journal", *arguments])
    use_settings(None)


@pytest.fixture
def far(database_url: str, tmp_path: Path) -> Path:
    """The JOURNAL_DIR of a host that died with 20 records and three running requests, seen ten minutes ago."""
    place = tmp_path / "far"
    place.mkdir()
    with RecordingProcess(place, database_url) as process:
        process.ask("record_quickly", 20)
        process.ask("hold", 3)
        process.kill()
    (directory,) = journal_directories(place)
    see(directory.name, "far", str(place / "journal"), seconds=600)
    return place / "journal"


def see(worker_id: str, host: str, journal_dir: str, seconds: int) -> None:
    """Registers a worker that was last seen so many seconds ago."""
    one = Registration(worker_id=worker_id, host=host, boot_id="b", pid=7, version="v", journal_dir=journal_dir)
    upsert_seen(get_engine(), one, 3600)
    move(worker_id, seconds)


def move(worker_id: str, seconds: int) -> None:
    sql = "UPDATE worker SET last_seen_at = now() - make_interval(secs => :seconds) WHERE worker_id = :worker_id"
    with get_engine().begin() as connection:
        connection.execute(text(sql), {"seconds": seconds, "worker_id": worker_id})


def find_hosts(readiness: Readiness) -> dict[str | None, str]:
    assert readiness.hosts is not None
    return {host.host: host.state for host in readiness.hosts}


def audited(action: str) -> list[tuple[str, object]]:
    page = select_audit_page(AuditFilter(action=action), None, 10)
    return [(event.object, event.after) for event in page.data]


def test_the_journal_of_a_host_that_is_gone_is_adopted_from_a_copy(
    run: Run, far: Path, tmp_path: Path, database_url: str
) -> None:
    (directory,) = far.iterdir()
    see("b" * 32, "near", "/journal", seconds=5)
    see("c" * 32, "slow", "/journal", seconds=60)
    readiness = check_readiness(with_hosts=True)
    assert find_hosts(readiness) == {"far": "gone", "slow": "silent", "near": "live"}
    assert readiness.ready and f"{far} of far (at least 0)" in readiness.problems["hosts"]
    assert check_readiness().hosts is None, "nobody but operators asks for them"
    lines = run("list", str(far)).output.splitlines()
    assert lines[1].split()[:2] == ["far", "gone"] and lines[1].endswith(str(far))
    assert lines[-1].split()[:3] == [directory.name, "left", "23"]

    copy = tmp_path / "copy"
    shutil.copytree(far, copy)
    move(directory.name, 5)
    refused = run("adopt", str(copy))
    assert refused.exit_code == 1 and "reported in the last three minutes" in refused.output and list(copy.iterdir())
    move(directory.name, 600)
    adopted = run("adopt", str(copy))
    assert (adopted.exit_code, adopted.output) == (0, f"{directory.name}: 23 records, 3 of them lost\n")
    tables = ActivityTables(database_url)
    assert len(tables.outcomes()) == 23 and tables.check_balance()["started"] == 23
    assert audited("journal.adopt") == [(f"journal:{copy}", {directory.name: {"delivered": 23, "lost": 3}})]
    assert find_hosts(check_readiness(with_hosts=True)).keys() == {"slow", "near"} and list(copy.iterdir()) == []

    # The host comes back after all, with records that were adopted already.
    again = run("adopt", str(far / directory.name))
    assert again.exit_code == 0 and len(tables.outcomes()) == 23 and tables.check_balance()["started"] == 23
    for _ in range(2):
        nothing = run("adopt", str(far))
        assert (nothing.exit_code, nothing.output) == (0, f"No journal is left in {far}: all are delivered.\n")
        (far / "keys.snapshot").touch()
    above = run("adopt", str(far.parent))
    assert above.exit_code == 1 and "Give the JOURNAL_DIR itself" in above.output


def test_the_journals_of_a_host_are_written_off(run: Run, far: Path) -> None:
    (directory,) = far.iterdir()
    see("d" * 32, "far", str(far), seconds=600)
    see("e" * 32, "far", str(far), seconds=5)
    for nobody in (("nowhere",), ("nowhere", "--yes")):
        looked = run("write-off", *nobody)
        assert looked.exit_code == 1 and "No worker of a host 'nowhere' is missing" in looked.output
        assert "[y/N]" not in looked.output, "it looks before it asks"
    asked = run("write-off", "far")
    assert asked.exit_code == 1 and "2 workers of far are missing, with at least 0 requests." in asked.output
    done = run("write-off", "far", "--yes")
    assert done.exit_code == 0 and "2 workers of far. At least 0" in done.output
    assert audited("journal.write_off") == [("host:far", {"requests": {directory.name: 0, "d" * 32: 0}})]
    readiness = check_readiness(with_hosts=True)
    assert find_hosts(readiness) == {"far": "live"} and "hosts" not in readiness.problems


def test_a_journal_in_use_is_left_alone(run: Run, tmp_path: Path, database_url: str) -> None:
    place = tmp_path / "here"
    with RecordingProcess(place, database_url) as process:
        process.ask("hold", 1)
        assert " in use " in (listed := run("list")).output and listed.stderr == ""
        see("f" * 32, socket.gethostname(), "/srv/journal", seconds=5)
        assert "JOURNAL_DIR=/srv/journal into .env.local" in run("list").stderr
        assert run("list", str(place / "journal")).stderr == ""
        adopted = run("adopt", str(place / "journal"))
        assert adopted.exit_code == 0 and adopted.output.startswith("1 journals are in use by processes")
        process.ask("release")
