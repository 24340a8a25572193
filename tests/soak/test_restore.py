"""A dump that was made under load is restored; the number of lost records that the command names is the true one."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app import create_app
from app.config import load_settings
from app.runtime import use_settings
from tests.support.activity_tables import ActivityTables
from tests.support.answers import chat_answer
from tests.support.chat import PREFIX, post_chat
from tests.support.database_proxy import running_database_proxy
from tests.support.dumps import get_name, run_tool
from tests.support.gateway import Gateway, base_settings, start_gateway
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import pause
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

REQUESTS = 600
SEEN = "SELECT count(*) FROM worker WHERE closed_how IS NULL AND last_seen_at > now() - interval '1 minute'"


def send(gateway: Gateway, count: int) -> set[str]:
    """Sends requests, some at a time, and returns the ids of their records."""
    with ThreadPoolExecutor(8) as pool:
        return {str(seen.request_id) for seen in pool.map(lambda _: post_chat(gateway, PREFIX + "x"), range(count))}


@soak_only("services/journal/test_restore.py::test_what_journals_have_is_delivered_again_and_the_rest_is_named")
@pytest.mark.parametrize("end", ["reloads", "restarts", "is killed", "loses its disk"])
def test_the_lost_records_are_those_that_are_named(
    end: str, postgres: Postgres, tree: Path, tmp_path: Path, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.default = [pause(0.01), *chat_answer("hi")]
    settings = base_settings(tmp_path, database_url) | upstream.settings
    file, tables = tmp_path / "gateway.dump", ActivityTables(database_url)
    with running_database_proxy(database_url) as link, ThreadPoolExecutor(1) as pool:
        settings["DATABASE_URL"] = link.url
        gateway = start_gateway(settings, root=tree, log=tmp_path / "log", workers=2)
        sent = send(gateway, 50)
        wait_until(lambda: len(tables.outcomes()) == 50, what="the first rows")
        load = pool.submit(send, gateway, REQUESTS)
        run_tool("pg_dump", database_url, "--format=custom", f"--file={file}")
        sent |= load.result() | send(gateway, 40)
        wait_until(lambda: len(tables.outcomes()) == len(sent), what="all rows")
        if end == "reloads":
            gateway.reload()
        elif end in {"restarts", "loses its disk"}:
            gateway.stop()
        elif end == "is killed":
            gateway.kill()
        link.cut()
        postgres.drop_database(database_url)
        postgres.execute(f'CREATE DATABASE "{get_name(database_url)}"')
        run_tool("pg_restore", database_url, "--single-transaction", str(file))
        had = len(tables.outcomes())
        assert 50 <= had < len(sent)
        link.mend()
        if end == "loses its disk":
            shutil.rmtree(tmp_path / "journal")
        if end != "reloads":
            gateway = start_gateway(settings, root=tree, log=tmp_path / "log", workers=2)
        if end == "loses its disk":
            post_chat(gateway, PREFIX + "x")
        else:
            wait_until(lambda: len(tables.outcomes()) == len(sent), 60, "the rows again")
        tables.execute("UPDATE worker SET last_seen_at = now() - interval '10 minutes' WHERE closed_how IS NULL")
        wait_until(lambda: tables.select(SEEN)[0][0] == 2, 60, "a sign of life of the workers")
        app = create_app(load_settings(settings))
        done = app.test_cli_runner().invoke(args=["db", "reconcile-ledger", "--close-missing"])
        use_settings(None)
        gone = len(sent - tables.outcomes().keys())
        tables.check_balance()
        gateway.stop()
    named = int(re.findall(r"Lost: the records of ([0-9,]+)", done.output)[0].replace(",", ""))
    # Without its disk, the only one to know of these is the database, as far as it was told before the dump.
    assert named <= gone == len(sent) - had if end == "loses its disk" else named == gone == 0, done.output
