"""The registry shows the live workers of each host, how each one ended, and the records that vanished ones may hold."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from app.cli.activity import activity_group
from app.config import load_settings
from app.runtime import use_settings
from tests.support.activity_tables import ActivityTables, adopt_all, journal_directories
from tests.support.answers import chat_answer
from tests.support.chat import PREFIX, open_chat, post_chat, request
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.postgres import Postgres
from tests.support.recording_process import RecordingProcess
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import hang
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

HOST = socket.gethostname()
WORKERS = 2


def integrity(gateway: Gateway) -> dict[str, Any]:
    """Returns the report; {} while the database is away."""
    seen = request("GET", gateway.url + "/api/activity/integrity", headers=gateway.headers)
    found: dict[str, Any] = seen.json if seen.status == 200 else {}
    return found


def wait_for_workers(gateway: Gateway, **counts: int) -> dict[str, Any]:
    """Returns the report once the registry counts so many workers in the given states."""

    def reached() -> dict[str, Any]:
        now = integrity(gateway)
        return now if now and all(now["workers"][state] == count for state, count in counts.items()) else {}

    return wait_until(reached, what=f"{counts}")


def closings(url: str) -> Counter[str | None]:
    return Counter(row[0] for row in ActivityTables(url).select("SELECT closed_how FROM worker"))


def read_backlog(gateway: Gateway) -> int:
    """Returns the gauge of rows that are not in the database, the sum of all workers."""
    lines = request("GET", gateway.url + "/metrics").body.decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("gateway_journal_backlog_rows")))


def events(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gateway.log().splitlines()]
    return [line for line in lines if line["event"] == name]


@soak_only("db/test_workers.py::test_a_worker_is_live_then_missing_then_closed")
def test_workers_are_registered_and_closed_by_stop_reload_and_death(
    gateways: Gateways, upstream: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    upstream.default = chat_answer("hi")
    upstream.on_model("held", [hang()])
    with gateways.running(database_url, upstream.settings, workers=WORKERS, place=tmp_path) as gateway:
        report = wait_for_workers(gateway, live=WORKERS, closed=0, missing=0)
        assert report["hosts"] == [{"host": HOST, "live": WORKERS, "missing": 0}]
        assert {one["pid"] for one in report["live"]} == set(gateway.worker_pids())
        assert len({one["version"] for one in report["live"]}) == 1
        assert {one["worker_id"] for one in report["live"]} == {path.name for path in journal_directories(tmp_path)}
        assert post_chat(gateway, PREFIX + "any").status == 200

        gateway.send_signal(signal.SIGHUP)
        report = wait_for_workers(gateway, live=WORKERS, closed=WORKERS)
        assert closings(database_url) == {None: WORKERS, "drained": WORKERS}

        with open_chat(gateway, PREFIX + "held"):
            busy = wait_until(lambda: [one for one in integrity(gateway)["live"] if one["in_flight"]])
            os.kill(busy[0]["pid"], signal.SIGKILL)
        report = wait_for_workers(gateway, live=WORKERS, closed=WORKERS + 1, missing=0)
        (killed,) = events(gateway, "worker_killed")
        assert killed["level"] == "error" and "SIGKILL" in killed["message"]
        assert closings(database_url) == {None: WORKERS, "drained": WORKERS, "adopted": 1}
        wait_until(lambda: integrity(gateway)["outcomes"] == {"ok": 1, "lost": 1})
        assert integrity(gateway)["balanced"] is True
        gateway.stop()
    assert closings(database_url) == {"drained": 2 * WORKERS, "adopted": 1}
    assert journal_directories(tmp_path) == [] and events(gateway, "journal_left") == []


@soak_only("db/test_workers.py::test_a_missing_worker_is_written_off_and_corrected_if_its_journal_turns_up")
def test_a_host_that_has_vanished_is_named_with_what_it_may_hold(
    gateways: Gateways, upstream: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    far_place = tmp_path / "far"
    far_place.mkdir()
    upstream.on_model("held", [hang()])
    with (
        gateways.running(database_url, upstream.settings, place=far_place) as far,
        open_chat(far, PREFIX + "held"),
    ):
        wait_until(lambda: integrity(far)["in_flight"] == 1)
        far.kill()
    with gateways.running(database_url, upstream.settings) as gateway:
        wait_for_workers(gateway, live=2, missing=0)
        sql = "UPDATE worker SET host = 'far', last_seen_at = last_seen_at - interval '4 minutes'"
        ActivityTables(database_url).execute(f"{sql} WHERE journal_dir = '{far_place / 'journal'}'")
        report = wait_for_workers(gateway, live=1, missing=1)
        hosts = {one["host"]: (one["live"], one["missing"]) for one in report["hosts"]}
        assert hosts == {HOST: (1, 0), "far": (0, 1)}
        (missing,) = report["missing"]
        (directory,) = journal_directories(far_place)
        assert missing["journal"] == str(directory) and missing["worker_id"] == directory.name
        assert (missing["host"], missing["in_flight"], missing["unshipped"]) == ("far", 1, 0)
        assert f"{directory} on far" in missing["advice"] and f"write-off {directory.name}" in missing["advice"]
        # The report is balanced, because to the database the request is still in flight.
        assert report["balanced"] is True and report["in_flight"] == 1

        live = report["live"][0]["worker_id"]
        use_settings(load_settings({"DATABASE_URL": database_url}))
        refused = CliRunner().invoke(activity_group, ["write-off", live, "--yes"])
        assert f"No missing worker has the id '{live}'" in refused.output and refused.exit_code == 1
        written_off = CliRunner().invoke(activity_group, ["write-off", directory.name, "--yes"])
        assert "Written off: at least 1 of the requests" in written_off.output
        report = wait_for_workers(gateway, live=1, missing=0, closed=0, written_off=1)
        (given_up,) = report["written_off"]
        assert (given_up["worker_id"], given_up["host"]) == (directory.name, "far")
        assert (report["unrecorded"], report["in_flight"], report["balanced"]) == (1, 0, False)

        # The host comes back after all.
        with gateways.running(database_url, upstream.settings, place=far_place):
            wait_until(lambda: integrity(gateway)["outcomes"] == {"lost": 1})
            report = wait_for_workers(gateway, live=2, missing=0, closed=1, written_off=0)
            assert (report["unrecorded"], report["balanced"], report["written_off"]) == (0, True, [])
    assert closings(database_url)["adopted"] == 1


@soak_only("services/journal/test_orphans.py::test_finished_requests_are_shipped_and_unfinished_ones_are_lost")
def test_orphans_are_in_the_backlog_and_a_stop_says_what_it_leaves_while_the_database_is_away(
    gateways: Gateways, upstream: ScriptedUpstream, victim: Postgres, victim_url: str, tmp_path: Path
) -> None:
    upstream.default = chat_answer("hi")
    settings = upstream.settings | {"DRAIN_TIMEOUT": "1", "GRACEFUL_TIMEOUT": "6", "DATABASE_URL": victim_url}
    with gateways.running(victim_url, settings, workers=2, place=tmp_path) as gateway:
        wait_for_workers(gateway, live=2)
        for _ in range(7):
            assert post_chat(gateway, PREFIX + "any").status == 200
        wait_until(lambda: integrity(gateway)["outcomes"] == {"ok": 7})
        victim.stop()
        for _ in range(20):
            assert post_chat(gateway, PREFIX + "any").status == 200
        before = gateway.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(gateway.worker_pids()) - set(before)) == 2, what="new workers")
        for _ in range(3):
            assert post_chat(gateway, PREFIX + "any").status == 200
        wait_until(lambda: read_backlog(gateway) == 23, what="the rows of the living and of the dead in the gauge")
        for _ in range(4):  # Any worker may answer.
            journal = request("GET", gateway.url + "/ready").json["journal"]
            assert (journal["orphaned"]["journals"], journal["orphaned"]["rows"]) == (2, 20)
            assert journal["orphaned"]["bytes"] > 20 * 500 and journal["orphaned"]["oldest_age_s"] > 0
        # The sum stays right only if a single worker counts the orphans, since all gauges have been written by now.
        assert post_chat(gateway, PREFIX + "any").status == 200
        wait_until(lambda: read_backlog(gateway) == 24)

        gateway.stop()
        left = events(gateway, "journal_left")
        assert sum(line["rows"] for line in left) == 4 and len(journal_directories(tmp_path)) in {2 + len(left), 4}
        for line in left:
            assert Path(line["directory"]) in journal_directories(tmp_path)
            assert "the next start of the gateway" in line["next_step"] and line["level"] == "warning"
    victim.start()
    with gateways.running(victim_url, settings, place=tmp_path) as gateway:
        wait_until(lambda: len(journal_directories(tmp_path)) == 1, what="the adoption of all journals")
        report = integrity(gateway)
        assert report["outcomes"] == {"ok": 31} and report["balanced"] is True
        assert (report["workers"]["live"], report["workers"]["missing"], report["unshipped"]) == (1, 0, 0)
        assert closings(victim_url)[None] == 1
        wait_until(lambda: read_backlog(gateway) == 0)
        gateway.stop()


def test_a_worker_that_stops_without_a_database_and_without_rows_is_closed_later(
    victim: Postgres, victim_url: str, tmp_path: Path
) -> None:
    with RecordingProcess(tmp_path, victim_url) as process:
        process.ask("start")
        (directory,) = wait_until(lambda: journal_directories(tmp_path))
        sql = f"SELECT closed_how FROM worker WHERE worker_id = '{directory.name}'"
        wait_until(lambda: ActivityTables(victim_url).select(sql), what="its registration")
        victim.stop()
        assert process.ask("stop", 5) is True
        assert "journal_left" not in process.log_file.read_text()
    # Only its directory still shows that the registry must be updated.
    assert directory.exists()
    victim.start()
    adopt_all(tmp_path, victim_url)
    assert ActivityTables(victim_url).select(sql) == [("adopted",)]
