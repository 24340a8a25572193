"""Two hosts behind one nginx: one is killed for good, the other is cut off from the database; no row is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from app import create_app
from app.config import load_settings
from app.runtime import use_settings
from tests.faults.nginx import NO_NGINX, Door, running_nginx_for_hosts
from tests.support.activity_tables import ActivityTables, journal_directories
from tests.support.answers import chat_answer
from tests.support.chat import PREFIX, chat_body, request
from tests.support.database_proxy import running_database_proxy
from tests.support.gateway import Gateway, base_settings
from tests.support.gateways import Gateways
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import pause
from tests.support.soak import FULL, soak_count, soak_only
from tests.support.waiting import wait_until

REQUESTS = soak_count(2_000)
CLIENTS = 8
# The host is cut off for longer than any wait for the database.
CUT_S = 15.0 if FULL else 3.0


class Load:
    """Clients that send requests with different models through nginx, some of whose connections break.

    Attributes:
        statuses: model → the status of its answer, None where the connection broke.
    """

    def __init__(self, door: Door) -> None:
        self.statuses: dict[str, int | None] = {}
        self._door = door
        self._session = threading.local()

    def send(self, number: int) -> None:
        """Sends request `number`."""
        model = f"{PREFIX}host-{number}-"
        headers = {"Authorization": f"Bearer {self._door.key}"}
        try:
            url = f"{self._door.url}/v1/chat/completions"
            self.statuses[model] = request("POST", url, headers=headers, json=chat_body(model)).status
        except requests.RequestException:
            self.statuses[model] = None

    def wait_for(self, share: float) -> None:
        """Returns once that share of all requests has ended."""
        wait_until(lambda: len(self.statuses) >= share * REQUESTS, 300, f"{share:.0%} of the requests")


@soak_only("services/journal/test_orphans.py::test_workers_killed_again_and_again_lose_only_requests_in_flight")
@pytest.mark.soak
@pytest.mark.skipif(bool(NO_NGINX), reason=NO_NGINX)
def test_one_host_is_killed_and_one_is_cut_off_and_each_request_has_one_row(
    gateways: Gateways, upstream: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    upstream.default = [pause(0.02), *chat_answer("hi")]
    settings = upstream.settings | {"UPSTREAM_RETRIES": "0"}
    doomed_place, cut_place, nginx_place = (tmp_path / name for name in ("doomed", "cut", "nginx"))
    for place in (doomed_place, cut_place):
        place.mkdir()
    with (
        running_database_proxy(database_url) as link,
        gateways.running(database_url, settings, workers=2, place=doomed_place) as doomed,
        gateways.running(link.url, settings, workers=2, place=cut_place) as other,
        running_nginx_for_hosts((address(doomed), address(other)), nginx_place) as door,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        load = Load(door)
        sent = [pool.submit(load.send, number) for number in range(REQUESTS)]
        load.wait_for(0.3)
        doomed.kill()
        load.wait_for(0.5)
        link.freeze()
        cut_at_s = time.monotonic()
        load.wait_for(0.8)
        time.sleep(max(0.0, CUT_S - (time.monotonic() - cut_at_s)))
        link.thaw()
        for each in sent:
            each.result()
        tables = ActivityTables(database_url)
        tables.execute(
            "UPDATE worker SET last_seen_at = now() - interval '10 minutes'"
            f" WHERE journal_dir = '{doomed_place / 'journal'}'"
        )
        hosts = request("GET", f"{other.url}/ready").json["hosts"]
        assert {(host["state"], host["journal_dir"]) for host in hosts} == {
            ("gone", str(doomed_place / "journal")),
            ("live", str(cut_place / "journal")),
        }
        adopt(doomed_place / "journal", tmp_path, database_url)
        integrity = wait_until(lambda: get_settled(other, len(served(upstream))), 120, "all records")
    assert integrity["balanced"] is True and integrity["workers"]["missing"] == 0, integrity
    check(load, upstream, tables)


def address(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


def served(upstream: ScriptedUpstream) -> Counter[str]:
    """Returns model → how often the provider read a request with it."""
    return Counter(str(call.json["model"]) for call in upstream.calls)


def adopt(journal: Path, tmp_path: Path, database_url: str) -> None:
    """Delivers the journal of the dead host from a third one."""
    place = tmp_path / "third"
    place.mkdir()
    runner = create_app(load_settings(base_settings(place, database_url))).test_cli_runner()
    done = runner.invoke(args=["journal", "adopt", str(journal)])
    use_settings(None)
    assert done.exit_code == 0 and journal_directories(journal.parent) == [], done.output


def get_settled(gateway: Gateway, least: int) -> dict[str, object]:
    """Returns the report on integrity once nothing is on its way any more."""
    seen = request("GET", f"{gateway.url}/api/activity/integrity", headers=gateway.headers)
    report: dict[str, object] = seen.json if seen.status == 200 else {"in_flight": -1, "started": 0}
    is_settled = report["in_flight"] == 0 and report["unshipped"] == 0 and int(str(report["started"])) >= least
    return report if is_settled else {}


def check(load: Load, upstream: ScriptedUpstream, tables: ActivityTables) -> None:
    """Fails unless each request that a provider or a client knows has one row, and none was sent to two hosts."""
    rows = tables.select("SELECT model_requested, outcome FROM activity")
    outcomes = {row.model_requested: row.outcome for row in rows}
    assert len(outcomes) == len(rows), "a request has two rows"
    counts = served(upstream)
    assert set(counts.values()) == {1}, "a request was sent to a provider twice"
    assert counts.keys() <= outcomes.keys() and outcomes.keys() <= load.statuses.keys()
    for model, status in load.statuses.items():
        if status == 200:
            assert outcomes[model] == "ok"
        else:  # Only those that the killed host was serving.
            assert status in {502, None} and outcomes.get(model) in {"ok", "lost", None}
    failed = sum(status != 200 for status in load.statuses.values())
    assert failed <= CLIENTS and len(load.statuses) == REQUESTS, f"{failed} requests failed"
    tables.check_balance()
