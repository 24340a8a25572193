"""Workers know an alias within seconds, even new ones while PostgreSQL is away; the documented curls work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.config import ROOT
from tests.support.catalogs import provider_environment
from tests.support.chat import Seen, request
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.soak import soak_only
from tests.support.waiting import wait_until
from tests.test_documented import run

SECTION = (ROOT / "docs" / "routing.md").read_text().partition("**Over HTTP**")[2]
(CURLS,) = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture(scope="module")
def gateway(gateways: Gateways, victim_url: str, sandbox: Sandbox) -> Iterator[Gateway]:
    """A gateway with two workers and two providers, on a PostgreSQL that a test may stop."""
    providers = provider_environment(sandbox.url, ("fireworks", "deepinfra"), key="sandbox")
    with gateways.running(victim_url, providers, workers=2) as gateway:
        yield gateway


def call(gateway: Gateway, method: str, path: str, **body: object) -> Seen:
    """Sends a request with the operator's key."""
    return request(method, gateway.url + path, headers=gateway.headers, **({"json": body} if body else {}))


@contextmanager
def only(gateway: Gateway, worker: int) -> Iterator[None]:
    """Suspends the other workers for the length of a `with` block, so that this one answers."""
    others = [pid for pid in gateway.worker_pids() if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def wait_for_model(gateway: Gateway, name: str, status: int) -> None:
    """Waits until each worker, running alone, answers with this status for a model."""
    for worker in gateway.worker_pids():
        with only(gateway, worker):
            wait_until(
                lambda: call(gateway, "GET", f"/v1/models/{name}").status == status, what=f"{name} in worker {worker}"
            )


@soak_only("services/aliases/test_aliases.py::test_the_aliases_survive_an_outage")
def test_every_worker_knows_an_alias_and_keeps_it_while_the_database_is_away(
    gateway: Gateway, victim: Postgres
) -> None:
    assert len(gateway.worker_pids()) == 2
    targets = ["fireworks/kimi-k3"]
    assert call(gateway, "POST", "/api/aliases", name="gone", targets=targets).status == 201
    assert call(gateway, "POST", "/api/aliases", name="kept", targets=targets).status == 201
    wait_for_model(gateway, "gone", 200)
    assert call(gateway, "DELETE", "/api/aliases/gone").status == 200
    wait_for_model(gateway, "gone", 404)
    victim.stop()
    try:
        wait_until(lambda: gateway.log().count("alias_refresh_failed") == 2, what="both workers to notice")
        killed = gateway.worker_pids()[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(gateway.worker_pids()) == 2 and killed not in gateway.worker_pids(), what="a new worker")
        wait_for_model(gateway, "kept", 200)
        wait_until(lambda: gateway.log().count("alias_file_loaded") == 1, what="the new worker to read the file")
        assert call(gateway, "DELETE", "/api/aliases/kept").status == 503
    finally:
        victim.start()
    wait_until(lambda: call(gateway, "DELETE", "/api/aliases/kept").status == 200, what="the database to be back")
    wait_for_model(gateway, "kept", 404)


@soak_only("cli/test_aliases.py::test_the_documented_commands_print_what_is_documented")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_curls_work_in_order(gateway: Gateway) -> None:
    commands = re.split(r"\n(?=curl)", CURLS.strip())
    answers = []
    for command in commands:
        if "/v1/models/" in command:
            wait_for_model(gateway, "fast", 200)
        answers.append(json.loads(run(gateway, command)))
        assert "error" not in answers[-1], (command, answers[-1])
    made, changed, listed, model, deleted, audited = answers
    assert made["data"]["overrides"] == {"max_tokens": 1000} and "warnings" not in made
    assert [target["weight"] for target in changed["data"]["targets"]] == [1, 3] and changed["data"]["sort"] is None
    assert listed["data"] == [changed["data"]] == [deleted["data"]]
    assert (model["id"], model["context_length"]) == ("fast", 262_144)
    assert [event["action"] for event in audited["data"]] == ["alias.delete", "alias.change", "alias.create"]
