"""Dumps made under load are restored: the command names exactly the lost records, and none is counted twice."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app import create_app
from app.config import load_settings
from app.db.fold import fold_deltas
from app.runtime import use_settings
from app.services.journal import select_integrity_report
from tests.db.rows import count
from tests.support.activity_tables import ActivityTables
from tests.support.answers import chat_answer
from tests.support.chat import PREFIX, post_chat
from tests.support.database_proxy import running_database_proxy
from tests.support.dumps import get_name, run_tool
from tests.support.gateway import Gateway, base_settings, start_gateway
from tests.support.limited_keys import make_limited_key
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import pause
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

REQUESTS = 600
SEEN = "SELECT count(*) FROM worker WHERE closed_how IS NULL AND last_seen_at > now() - interval '1 minute'"


def send(gateway: Gateway, count: int, key: str | None = None) -> set[str]:
    """Sends requests, several at a time, and returns the ids of their records.

    Args:
        gateway: the gateway that gets them.
        count: the number of requests.
        key: the client's; workers may be killed while it is used, so that requests fail. None for the operator's.
    """

    def send_one(_: int) -> str:
        with suppress(*[requests.RequestException] if key else []):
            return str(post_chat(gateway, PREFIX + "x", key=key, max_tokens=50).request_id)
        return ""

    with ThreadPoolExecutor(8) as pool:
        return {*pool.map(send_one, range(count))} - {""}


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
        wait_until(lambda: tables.select(SEEN)[0][0] == 2, 60, "a report of the workers")
        app = create_app(load_settings(settings))
        done = app.test_cli_runner().invoke(args=["db", "reconcile-ledger", "--close-missing"])
        use_settings(None)
        gone = len(sent - tables.outcomes().keys())
        tables.check_balance()
        gateway.stop()
    named = int(re.findall(r"Lost: the records of ([0-9,]+)", done.output)[0].replace(",", ""))
    # If its disk is lost, only the database knows of these records, as far as it was told before the dump.
    assert named <= gone == len(sent) - had if end == "loses its disk" else named == gone == 0, done.output


SMALL = "--exclude-table-data=activity_p*"
# The counts of requests. Times of streams are left out: sums of floats, whose last digits depend on their order.
SUMS = {
    "outcomes": "SELECT level, subject, start, gateway, endpoint, outcome, error_type, requests, prompt_tokens,"
    " completion_tokens, cost_exact, cost_estimated FROM outcome_usage",
    "models": "SELECT level, subject, start, gateway, endpoint, model, requests, completion_tokens, cost_exact,"
    " cost_estimated FROM model_usage",
    "latencies": "SELECT level, subject, start, gateway, endpoint, metric, buckets, counts FROM latency_usage",
    "charges": "SELECT period_id, worker_id, exact, estimated, ceiling, requests FROM budget_charge",
}


def read_sums(url: str) -> dict[str, list[str]]:
    """Returns the sums and charges by table, once all deltas are folded into them."""
    engine = create_engine(url, poolclass=NullPool)
    while fold_deltas(engine, min_age_s=0).folded or count(engine, "rollup_delta"):
        pass
    tables = ActivityTables(url)
    return {name: sorted(str(tuple(row)) for row in tables.select(sql)) for name, sql in SUMS.items()}


def get_waiting(tables: ActivityTables) -> int:
    """Returns how many requests have no row yet, according to the workers' ledger."""
    ledger = tables.integrity()[0]
    return ledger["in_flight"] + ledger["unshipped"]


@soak_only("services/journal/test_restore.py::test_what_journals_have_is_delivered_again_and_the_rest_is_named")
@pytest.mark.parametrize("dump", ["full", "small"])
def test_no_request_is_counted_twice_after_a_restore(
    dump: str, postgres: Postgres, tree: Path, tmp_path: Path, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.default = [pause(0.01), *chat_answer("hi")]
    file, tables = tmp_path / "gateway.dump", ActivityTables(database_url)
    key = make_limited_key(database_url, ("tokens", "1000000000"), ("requests", "100000"))
    places = {name: tmp_path / name for name in ("lives", "ends", "ended")}
    for place in places.values():
        place.mkdir()
    with running_database_proxy(database_url) as link, ThreadPoolExecutor(2) as pool:
        settings = {name: base_settings(place, link.url) | upstream.settings for name, place in places.items()}

        def start(name: str) -> Gateway:
            return start_gateway(settings[name], root=tree, log=places[name] / "log", workers=2)

        gateways = {name: start(name) for name in places}
        sent = set().union(*(send(gateway, 40, key) for gateway in gateways.values()))
        wait_until(lambda: len(tables.outcomes()) == len(sent), what="the first rows")
        # In each gateway that ends, one of the two workers is killed, and the other delivers its journal.
        os.kill(gateways["ended"].worker_pids()[0], signal.SIGKILL)
        gateways["ended"].stop()
        wait_until(lambda: not get_waiting(tables), what="the rows of those that ended before the dump")
        load = [pool.submit(send, gateways[name], 300, key) for name in ("lives", "ends")]
        time.sleep(0.3)
        run_tool("pg_dump", database_url, "--format=custom", f"--file={file}", *([SMALL] if dump == "small" else []))
        os.kill(gateways["ends"].worker_pids()[0], signal.SIGKILL)
        for one in load:
            sent |= one.result()
        for name in ("lives", "ends"):
            sent |= send(gateways[name], 30, key)
        gateways["ends"].stop()
        wait_until(lambda: not get_waiting(tables), what="all rows")
        before, sums = tables.outcomes(), read_sums(database_url)
        assert before.keys() >= sent and all(sums.values())
        link.cut()
        postgres.drop_database(database_url)
        postgres.execute(f'CREATE DATABASE "{get_name(database_url)}"')
        run_tool("pg_restore", database_url, "--single-transaction", str(file))
        assert (dump == "small") == (not tables.outcomes()) and sum(tables.integrity()[1].values()) < len(before)
        link.mend()
        gateways |= {name: start(name) for name in ("ends", "ended")}
        wait_until(lambda: tables.integrity()[0]["started"] >= len(before), 60, "what workers have begun")
        wait_until(lambda: not get_waiting(tables), 60, "all rows again")
        app = create_app(load_settings(settings["lives"]))
        done = app.test_cli_runner().invoke(args=["db", "reconcile-ledger", "--close-missing"])
        assert read_sums(database_url) == sums
        report = select_integrity_report()
        use_settings(None)
        assert "Lost: the records of 0 requests" in done.output and "sums" not in done.output
        assert report.balanced and report.started - report.unsent == len(before) and report.limits.balanced
        assert report.limits.periods_checked == (2 if dump == "full" else None)
        assert "journals_returned" not in gateways["ended"].log(), "it had delivered all before the dump"
        if dump == "full":
            assert tables.outcomes() == before
        for gateway in gateways.values():
            gateway.stop()
