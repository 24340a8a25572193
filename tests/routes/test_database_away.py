"""While PostgreSQL is stopped, frozen or busy, reading records soon fails with 503, and completions are served."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support.chat import Seen, chat_body, post, post_chat, request
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.waiting import wait_until

MODEL = "accounts/fireworks/models/deepseek-v3p1"
PATHS = (
    "/api/catalog/gateway/fireworks/stats?time_range=24h",
    "/api/activity",
    "/api/activity?format=csv",
    "/api/activity/integrity",
    "/api/usage",
)


@pytest.fixture(scope="module")
def gateway(
    tree: Any, victim_url: str, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with one worker on a database server that may be stopped."""
    place = tmp_path_factory.mktemp("away")
    settings = base_settings(place, victim_url) | sandbox.settings | {"IDEMPOTENCY_HOURS": "1"}
    with running_gateway(tree, place, settings) as gateway:
        yield gateway


def test_a_database_that_is_stopped_is_said_to_be_away(gateway: Gateway, victim: Postgres) -> None:
    victim.stop()
    try:
        for path in PATHS:
            _check_unavailable(_ask(gateway, path))
        assert post_chat(gateway, MODEL).status == 200
        _check_unkept(_repeat(gateway, "stopped"))
    finally:
        victim.start()
    assert _repeat(gateway, "stopped").status == 200
    for path in PATHS:
        assert _ask(gateway, path).status == 200
    assert "Traceback" not in gateway.log()


def test_a_database_that_is_frozen_holds_nobody(gateway: Gateway, victim: Postgres) -> None:
    assert _ask(gateway, PATHS[0]).status == 200
    victim.pause()
    try:
        # More concurrent requests than may read at a time, and than there are connections.
        for seen in _ask_at_once(gateway, PATHS * 3):
            _check_unavailable(seen)
        assert post_chat(gateway, MODEL).status == 200
        _check_unkept(_repeat(gateway, "frozen"))
    finally:
        victim.resume()
    wait_until(lambda: _repeat(gateway, "frozen").status == 200, what="the key to be free")
    for path in PATHS:
        assert _ask(gateway, path).status == 200


def test_an_answer_that_ends_while_the_database_is_stopped_is_kept_later(gateway: Gateway, victim: Postgres) -> None:
    url, headers = gateway.url + "/v1/chat/completions", gateway.headers | {"Idempotency-Key": "late"}
    # A stream of a second and a half.
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Write 700 tokens."}]}
    with requests.post(url, json=body, headers=headers, stream=True, timeout=30) as response:
        blocks = response.iter_content(None)
        first = next(blocks)
        victim.stop()
        try:
            whole = first + b"".join(blocks)
        finally:
            victim.start()
    assert whole.endswith(b"data: [DONE]\n\n")
    seen: list[Seen] = []

    def is_kept() -> bool:
        seen.append(request("POST", url, json=body, headers=headers))
        return seen[-1].status == 200

    wait_until(is_kept, what="the kept answer")
    assert seen[-1].body == whole and seen[-1].headers["idempotent-replayed"] == "true"


def test_a_query_that_waits_for_a_lock_is_given_up(gateway: Gateway, victim: Postgres, victim_url: str) -> None:
    engine_blocks = threading.Event()
    release = threading.Event()

    def block() -> None:
        connection = victim.connect(victim_url.rpartition("/")[2].partition("?")[0])
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE outcome_usage_hour IN ACCESS EXCLUSIVE MODE")
        engine_blocks.set()
        release.wait(60)
        connection.close()

    blocker = threading.Thread(target=block)
    blocker.start()
    try:
        assert engine_blocks.wait(20)
        for seen in _ask_at_once(gateway, [PATHS[0]] * 6):
            _check_unavailable(seen)
        assert _ask(gateway, "/api/activity").status == 200
    finally:
        release.set()
        blocker.join()
    assert _ask(gateway, PATHS[0]).status == 200


def _ask(gateway: Gateway, path: str) -> Seen:
    return request("GET", gateway.url + path, headers=gateway.headers)


def _ask_at_once(gateway: Gateway, paths: Any) -> list[Seen]:
    answers: list[Seen] = []
    threads = [threading.Thread(target=lambda path=path: answers.append(_ask(gateway, path))) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(threads)
    return answers


def _check_unavailable(seen: Seen) -> None:
    assert (seen.status, seen.error["type"], seen.error["code"]) == (503, "unavailable_error", "database_unavailable")
    assert int(seen.headers["retry-after"]) >= 1 and seen.headers["x-request-id"]


def _repeat(gateway: Gateway, name: str) -> Seen:
    """Sends a request with an Idempotency-Key."""
    return post(gateway, json.dumps(chat_body(MODEL)).encode(), headers={"Idempotency-Key": name})


def _check_unkept(seen: Seen) -> None:
    assert (seen.status, seen.error["code"]) == (503, "idempotency_unavailable"), seen.body
    assert seen.headers["retry-after"] == "5"
