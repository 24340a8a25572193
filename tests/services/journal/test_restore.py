"""After a restore of the database, workers deliver the records in their journals again, and lost ones are named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from sqlalchemy import create_engine

from app import create_app
from app.config import load_settings
from app.db.ledger import LedgerLine, upsert_ledger
from app.runtime import use_settings
from app.services.administration import AuditFilter, select_audit_page
from app.services.journal import select_integrity_report
from tests.db.rows import insert_rows, make_row
from tests.support.activity_tables import ActivityTables, wait_until_shipped
from tests.support.database_proxy import DatabaseProxy, running_database_proxy
from tests.support.gateway import base_settings
from tests.support.postgres import Postgres
from tests.support.recording_process import RecordingProcess
from tests.support.soak import FULL
from tests.support.waiting import wait_until


@pytest.fixture
def link(database_url: str) -> Iterator[DatabaseProxy]:
    """A proxy to the test's database, which is cut while the database is copied or replaced."""
    with running_database_proxy(database_url) as link:
        yield link


def back_up(postgres: Postgres, link: DatabaseProxy, database_url: str) -> str:
    """Copies the database as it is now, and returns the name of the copy."""
    link.cut()
    name = database_url.rpartition("/")[2].partition("?")[0]
    end_sessions(postgres, name)
    copy = postgres.create_database(template=name)
    link.mend()
    return copy.rpartition("/")[2].partition("?")[0]


def restore(postgres: Postgres, link: DatabaseProxy, database_url: str, copy: str) -> None:
    """Replaces the database with the copy."""
    link.cut()
    name = database_url.rpartition("/")[2].partition("?")[0]
    postgres.drop_database(database_url)
    postgres.execute(f'ALTER DATABASE "{copy}" RENAME TO "{name}"')
    link.mend()


def end_sessions(postgres: Postgres, name: str) -> None:
    sql = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    wait_until(lambda: not postgres.execute(sql), what="the end of all sessions")


def reconcile(tmp_path: Path, database_url: str, *options: str) -> Result:
    (tmp_path / "command").mkdir(exist_ok=True)
    app = create_app(load_settings(base_settings(tmp_path / "command", database_url)))
    return app.test_cli_runner().invoke(args=["db", "reconcile-ledger", *options])


def test_what_journals_have_is_delivered_again_and_the_rest_is_named(
    tmp_path: Path, postgres: Postgres, link: DatabaseProxy, database_url: str
) -> None:
    tables = ActivityTables(database_url)
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    with (
        RecordingProcess(here, link.url, name="lives") as lives,
        RecordingProcess(there, link.url, name="ends") as ends,
    ):
        lives.ask("record", 50)
        ends.ask("record", 20)
        held = ends.ask("hold", 5)
        for process in (lives, ends):
            wait_until_shipped(process)
        wait_until(lambda: tables.integrity()[0]["in_flight"] == 5, what="the requests in flight in the ledger")
        copy = back_up(postgres, link, database_url)

        lives.ask("record", 300)
        ends.ask("release")
        for process in (lives, ends):
            wait_until_shipped(process)
        assert ends.ask("stop", 10) is True
        before = tables.outcomes()
        restore(postgres, link, database_url, copy)

        # The live worker notices by itself, even without requests.
        wait_until(lambda: len(tables.outcomes()) == 370, what="the rows again")
        assert '"rows_again":300' in lives.log_file.read_text()
        assert before.keys() - tables.outcomes().keys() == set(held), "lost with the worker that has ended since"
        assert tables.check_balance()["in_flight"] == 5
        wait_until_shipped(lives)
        lives_id = next(path.name for path in (here / "journal").iterdir() if path.is_dir())
        silent = (
            "UPDATE worker SET last_seen_at = now() - interval '{} s' WHERE closed_how IS NULL AND worker_id <> '{}'"
        )
        tables.execute(silent.format(60, lives_id))
        early = reconcile(tmp_path, database_url, "--close-missing")
        assert "Closed the worker" not in early.output
        assert re.search(r"silent for up to \d\d s: 1\. If they have ended, they count as missing", early.stderr)
        tables.execute(silent.format(600, lives_id))
        done = reconcile(tmp_path, database_url, "--close-missing")
        assert done.stderr == ""
        assert "5 requests that it was serving" in done.output and "Lost: the records of 5 requests" in done.output
        report = select_integrity_report()
        assert (report.balanced, report.lost_in_restores, report.in_flight) == (True, 5, 0)
        assert (report.workers.missing, report.workers.live, report.started) == (0, 1, 375)
        (event,) = select_audit_page(AuditFilter(action="ledger.reconcile"), None, 10).data
        assert event.after is not None and (event.after["lost"], len(event.after["workers"])) == (5, 1)

        # The delivered journal of the ended worker was kept, and the next worker on its host delivers it again.
        with RecordingProcess(there, link.url, name="begins") as begins:
            begins.ask("start")
            wait_until(lambda: tables.outcomes() == before, what="the rows of the kept journal")
            assert '"journals_returned"' in begins.log_file.read_text()
            wait_until(lambda: list((there / "journal/delivered").iterdir()), what="the journal to be kept again")
            assert begins.ask("stop", 10) is True
        assert "5 requests that counted as lost have" in reconcile(tmp_path, database_url).output
        assert tables.check_balance()["lost_in_restores"] == 0
        tables.execute(f"UPDATE worker_ledger SET started = started + 5 WHERE worker_id = '{lives_id}'")
        reconcile(tmp_path, database_url)

        # Records that no worker can deliver again are lost.
        tables.execute(f"UPDATE worker_ledger SET started = started + 7 WHERE worker_id = '{lives_id}'")
        assert not select_integrity_report().balanced
        assert "Lost: the records of 7 requests" in reconcile(tmp_path, database_url).output
        assert select_integrity_report().balanced
        # Lost records may turn up after all.
        tables.execute(f"UPDATE worker_ledger SET started = started - 7 WHERE worker_id = '{lives_id}'")
        assert "7 requests that counted as lost have" in reconcile(tmp_path, database_url).output
        tables.execute(f"UPDATE worker_ledger SET started = started - 6 WHERE worker_id = '{lives_id}'")
        refused = reconcile(tmp_path, database_url)
        assert refused.exit_code == 1 and "1 more records than requests begun" in refused.output
        assert select_integrity_report().lost_in_restores == 5
        use_settings(None)


def test_records_that_were_delivered_before_the_triggers_of_a_restore_are_counted_or_named(
    tmp_path: Path, database_url: str
) -> None:
    tables, day = ActivityTables(database_url), datetime(2026, 3, 5, 12, tzinfo=UTC)
    engine = create_engine(database_url)
    counted = make_row(started_at=day - timedelta(minutes=1))
    insert_rows(engine, [counted])
    line = LedgerLine(worker_id="w", version=1, started=4, in_flight=3)
    upsert_ledger(engine, line)
    assert reconcile(tmp_path, database_url).output == "Lost: the records of 0 requests.\nLost in all restores: 0.\n"
    # As in a restore, which creates the triggers of a table last.
    tables.execute("ALTER TABLE activity DISABLE TRIGGER count_activity")
    insert_rows(engine, [make_row(started_at=day + timedelta(days=each // 2)) for each in range(3)])
    tables.execute("ALTER TABLE activity ENABLE TRIGGER count_activity")
    upsert_ledger(engine, msgspec.structs.replace(line, version=2, in_flight=0))
    engine.dispose()
    # As after a dump without records: the sums have a day whose records are gone.
    tables.execute(f"DELETE FROM activity WHERE request_id = '{counted['request_id']}'")
    done = reconcile(tmp_path, database_url)
    assert "Counted anew, with records that the sums lacked: 1 of 2026-03-06." in done.output
    assert "Lost: the records of 2 requests." in done.output
    assert "there and that the sums lack: 1 of 2026-03-05. They" in done.output
    (event,) = select_audit_page(AuditFilter(action="ledger.reconcile"), None, 10).data
    assert event.after is not None
    assert (event.after["recounted"], event.after["uncounted"]) == ({"2026-03-06": 1}, {"2026-03-05": 1})
    assert select_integrity_report().balanced
    use_settings(None)


@pytest.mark.soak
@pytest.mark.skipif(not FULL, reason="it writes a dozen megabytes of records; `make soak` runs it")
def test_a_worker_has_its_last_segments_for_a_database_that_went_back(
    tmp_path: Path, postgres: Postgres, link: DatabaseProxy, database_url: str
) -> None:
    tables = ActivityTables(database_url)
    with RecordingProcess(tmp_path, link.url) as process:
        process.ask("record", 10)
        wait_until_shipped(process)
        copy = back_up(postgres, link, database_url)
        (first,) = tmp_path.glob("journal/*/*.journal")
        count = 10
        while first.exists():
            count += process.ask("record", 1_000)
            wait_until_shipped(process)
        restore(postgres, link, database_url, copy)
        process.ask("record", 1)
        (tmp_path / "command").mkdir()
        again = wait_until(lambda: find_again(process), what="the worker to notice")
        wait_until_shipped(process)
        assert 3_000 < again < count, "a segment at least, and not all"
        lost = count + 1 - len(tables.outcomes())
        assert 0 < lost == count - 10 - again
        assert f"Lost: the records of {lost:,} requests" in reconcile(tmp_path, database_url).output
        tables.check_balance()
        use_settings(None)


def find_again(process: RecordingProcess) -> int:
    """Returns the number of rows that the worker has logged to deliver again; 0 before that."""
    text = process.log_file.read_text().partition('"rows_again":')[2]
    return int(text.partition(",")[0] or 0)
