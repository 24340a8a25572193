"""The start: an error of one sentence if the gateway cannot serve, and a normal start if only the database is away."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gunicorn.config import Config

from app.config import load_settings
from app.server.gunicorn_options import WORKER_CLASS, find_option_mistake
from tests.support.chat import PREFIX, post_chat, request, wait_for_row
from tests.support.gateway import (
    GatewayDidNotBoot,
    base_settings,
    clean_environment,
    running_gateway,
    start_gateway,
)
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.unprivileged import run_to_end


def refusal(tree: Path, place: Path, settings: dict[str, str]) -> str:
    """Starts a gateway that must not boot, and returns its output."""
    with pytest.raises(GatewayDidNotBoot) as caught:
        start_gateway(settings, root=tree, log=place / "log").kill()
    assert caught.value.code not in {0, None}
    return str(caught.value)


def test_without_a_database_address_it_refuses_with_one_sentence(tree: Path, tmp_path: Path) -> None:
    said = refusal(tree, tmp_path, {})
    (line,) = said.strip().splitlines()
    assert line.startswith("The gateway cannot start: DATABASE_URL is not set.")


def test_a_bad_setting_is_refused_with_one_sentence_that_names_it(tree: Path, tmp_path: Path) -> None:
    """tests/test_config.py tests bad values of all settings."""
    settings = {"DATABASE_URL": "postgresql://localhost/x", "UPSTREAM_IDLE_TIMEOUT": "60s"}
    (line,) = refusal(tree, tmp_path, settings).strip().splitlines()
    assert line.startswith("The gateway cannot start: UPSTREAM_IDLE_TIMEOUT ") and line.endswith(".")


def test_options_of_gunicorn_that_break_promises_are_refused(tree: Path, tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgresql://localhost/x", "GUNICORN_CMD_ARGS": "-k gthread"}
    (line,) = refusal(tree, tmp_path, given).strip().splitlines()
    assert line == "The gateway cannot start: its workers have a class of their own, not gthread. Remove -k" + (
        " (--worker-class)."
    )
    settings = load_settings({"DRAIN_TIMEOUT": "20", "GRACEFUL_TIMEOUT": "25"})

    def find(**options: object) -> str | None:
        cfg = Config()
        for name, value in ({"worker_class": WORKER_CLASS, "graceful_timeout": 25, "timeout": 60} | options).items():
            cfg.set(name, value)
        return find_option_mistake(cfg, settings)

    assert find() is None and find(graceful_timeout=21, timeout=0) is None and find(timeout=25) is None
    assert str(find(certfile=__file__, keyfile=__file__)).startswith("it serves plain HTTP only. Remove certfile")
    assert str(find(worker_class="gevent")).endswith("Remove -k (--worker-class).")
    assert str(find(preload_app=True)).endswith("Remove --preload.")
    assert str(find(graceful_timeout=20)).endswith("above DRAIN_TIMEOUT (20 s). Remove it, and set GRACEFUL_TIMEOUT.")
    assert str(find(timeout=24)).startswith("--timeout is 24 s")


def test_a_signal_to_reload_that_comes_before_gunicorn_can_take_it_does_not_end_the_start(tree: Path) -> None:
    """The signal stays pending. Other tests, which reload gateways, show that it is unblocked later."""
    code = (
        "import os, runpy, signal, gunicorn.arbiter; runpy.run_path('gunicorn.conf.py');"
        " os.kill(os.getpid(), signal.SIGHUP); print(signal.SIGHUP in signal.sigpending())"
    )
    assert run_to_end([sys.executable, "-c", code], tree, clean_environment()) == (0, "True\n")


@soak_only("db/test_schema.py::test_the_state_of_a_schema_is_reported")
def test_a_schema_that_is_not_migrated_is_refused_with_the_command_that_helps(
    tree: Path, tmp_path: Path, postgres: Postgres
) -> None:
    empty = postgres.create_database()
    (line,) = refusal(tree, tmp_path, base_settings(tmp_path, empty)).strip().splitlines()
    said = "The gateway cannot start: the database schema is not up to date. Run `bin/gateway db upgrade`."
    assert line == said
    postgres.drop_database(empty)


@soak_only("routes/test_database_away.py::test_an_answer_that_ends_while_the_database_is_stopped_is_kept_later")
def test_it_boots_and_serves_while_the_database_is_away_and_records_it_later(
    tree: Path, tmp_path: Path, upstream: ScriptedUpstream, victim: Postgres, victim_url: str
) -> None:
    victim.kill()
    secret = {"DATABASE_URL": victim_url.replace("postgres@", "postgres:canary-password@")}
    settings = base_settings(tmp_path, victim_url) | upstream.settings | secret
    with running_gateway(tree, tmp_path, settings) as gateway:
        answers = [post_chat(gateway, PREFIX + "away") for _ in range(5)]
        shown = request("GET", gateway.url + "/ready")
        assert (shown.status, shown.json["database"]) == (200, {"reachable": False, "schema": None})
        assert "boot_check_failed" in gateway.log()
        assert "canary-password" not in gateway.log() + shown.body.decode()
        victim.start()
        for seen in answers:
            assert wait_for_row(victim_url, seen.request_id)["status"] == seen.status == 200
