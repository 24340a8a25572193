"""`/health` and `/ready`: whether the process is alive, and whether it should get requests."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.runtime import get_component
from app.shutdown import Drain
from app.version import get_version
from tests.support.chat import request
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until


def test_health_says_ok_without_a_key(gateway: Gateway) -> None:
    seen = request("GET", gateway.url + "/health")
    assert (seen.status, seen.json) == (200, {"status": "ok", "version": get_version()})
    assert seen.headers["content-type"] == "application/json"


def test_ready_shows_what_the_process_depends_on(gateway: Gateway) -> None:
    def loaded() -> dict[str, Any] | None:
        seen = request("GET", gateway.url + "/ready")
        assert seen.status == 200
        return seen.json if seen.json["catalogs"]["fireworks"]["models"] else None

    shown = wait_until(loaded, what="the catalog")
    assert shown["ready"] is True and shown["draining"] is False
    assert shown["database"] == {"reachable": True, "schema": "current"}
    assert shown["problems"] == {}
    assert shown["keys"]["source"] == "database" and shown["keys"]["usable"] is True and shown["keys"]["age_s"] < 60
    assert shown["journal"]["writable"] is True and shown["journal"]["unrecorded"] == 0


def test_a_worker_tells_the_registry_its_state_and_operators_read_it(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {gateway.key}"}

    def told() -> dict[str, Any] | None:
        seen = request("GET", gateway.url + "/api/workers", headers=headers)
        assert (seen.status, seen.headers["cache-control"]) == (200, "no-store")
        return next((one for one in seen.json["data"] if one["pid"] in gateway.worker_pids() and one["state"]), None)

    worker = wait_until(told, what="the state of the worker")
    assert worker["state"]["journal"]["writable"] is True and worker["state"]["problems"] == {}
    assert list(worker["state"]["catalogs"]) == ["fireworks"] and worker["last_seen_at"] >= worker["started_at"]
    metrics = wait_until(lambda: _get_line(gateway, "gateway_records_balanced"), what="the balance in the metrics")
    assert metrics.split()[1] in {"0.0", "1.0"} and _get_line(gateway, "gateway_missing_workers")
    assert request("GET", gateway.url + "/api/workers?host=a", headers=headers).error["param"] == "host"
    assert request("GET", gateway.url + "/api/workers").status == 401


def test_they_allow_get_and_head_alone(gateway: Gateway) -> None:
    for path in ("/health", "/ready"):
        assert request("POST", gateway.url + path).status == 405
        assert request("HEAD", gateway.url + path).status == 200


def _get_line(gateway: Gateway, metric: str) -> str:
    lines = request("GET", gateway.url + "/metrics").body.decode().splitlines()
    return next((line for line in lines if line.startswith(metric)), "")


def test_a_change_of_the_answer_of_ready_is_one_line_in_the_log(
    client: FlaskClient, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [client.get("/ready").status_code for _ in range(2)] == [200, 200]
    assert "readiness" not in capfd.readouterr().err
    get_component(Drain).deadline_s = time.monotonic() + 60
    assert [client.get("/ready").status_code for _ in range(3)] == [503, 503, 503]
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "readiness" in line]
    assert (line["event"], line["level"], line["draining"]) == ("readiness_lost", "info", True)
    get_component(Drain).deadline_s = None
    assert client.get("/ready").status_code == 200
    assert '"event":"readiness_regained"' in capfd.readouterr().err
