"""Retries: the gateway retries before the first byte of a response, and only where that is safe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.answers import chat_answer, chunk, json_answer, sse_stream, whole_stream
from tests.support.chat import PREFIX, Seen, post_chat, wait_for_row
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.limited_keys import make_limited_key
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream, refused_address
from tests.support.scripts import Script, close, drip, reset, send
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

OVERLOADED = json_answer({"error": {"message": "overloaded"}}, 503)


def asked(upstream: ScriptedUpstream) -> list[SeenRequest]:
    """Returns the chat requests that the provider saw."""
    return [seen for seen in upstream.requests if seen.path.endswith("/chat/completions")]


@pytest.mark.parametrize("stream", [False, True])
def test_a_503_is_tried_again_and_the_attempt_is_on_the_row(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, stream: bool
) -> None:
    # Otherwise the request for the list of models would take the first answer.
    wait_until(lambda: '"catalog_loaded"' in scripted_gateway.log(), what="the catalog")
    upstream.enqueue(OVERLOADED)
    upstream.default = sse_stream(whole_stream("hi")) if stream else chat_answer("hi")
    seen = post_chat(scripted_gateway, PREFIX + "again", stream=stream)
    assert seen.status == 200 and len(asked(upstream)) == 2
    row = wait_for_row(session_database_url, seen.request_id)
    attempt, _ = row["attempts"]
    assert (row["outcome"], row["upstream_status"], attempt["status"]) == ("ok", 200, 503)


def test_the_pause_that_the_provider_asks_for_is_kept(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(json_answer({"error": "slow down"}, 429, {"retry-after": "1"}))
    assert post_chat(scripted_gateway, PREFIX + "pause").status == 200
    first, second = asked(upstream)
    assert second.received_at - first.received_at >= 1


def test_a_long_pause_is_left_to_the_client(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(json_answer({"error": "slow down"}, 503, {"retry-after": "20"}))
    seen = post_chat(scripted_gateway, PREFIX + "pause")
    assert (seen.status, seen.headers["retry-after"], len(asked(upstream))) == (503, "20", 1)
    assert "x-should-retry" not in seen.headers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_what_another_try_cannot_change_is_not_tried_again(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    upstream.enqueue(json_answer({"error": {"message": "no"}}, status))
    assert post_chat(scripted_gateway, PREFIX + "once").status != 200
    assert len(asked(upstream)) == 1
    assert post_chat(scripted_gateway, PREFIX + "once").status == 200  # A success, so that no breaker opens.


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_nothing_is_tried_again_once_an_event_has_come(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, ending: str
) -> None:
    upstream.enqueue(sse_stream([chunk("one")], ending=ending))
    assert post_chat(scripted_gateway, PREFIX + "begun", stream=True).cut
    assert len(asked(upstream)) == 1


def lost(gateway: Gateway, upstream: ScriptedUpstream, *, reused: bool, script: Script, key: str | None = None) -> Seen:
    """Sends a request whose connection, reused or fresh, is ended by `script`; by default with the operator's key."""
    if reused:
        upstream.enqueue(chat_answer("hi"))
    else:
        upstream.enqueue([*chat_answer("hi"), close()])
    post_chat(gateway, PREFIX + "first")
    if not reused:
        wait_until(lambda: upstream.live_connections() == 0, what="no connection to reuse")
    upstream.enqueue(script)
    return post_chat(gateway, PREFIX + "second", key=key, max_tokens=10)


@pytest.fixture(scope="module")
def lone(gateways: Gateways, session_database_url: str) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    """A gateway whose connections no other test uses, and its upstream."""
    with ScriptedUpstream() as upstream, gateways.running(session_database_url, upstream.settings) as gateway:
        wait_until(lambda: '"catalog_loaded"' in gateway.log(), what="the catalog")
        yield gateway, upstream


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_kept_connection_that_breaks_is_replaced(
    lone: tuple[Gateway, ScriptedUpstream], session_database_url: str, how: str
) -> None:
    gateway, upstream = lone
    upstream.reset_scripts()
    key = make_limited_key(session_database_url, ("tokens", "100000"))
    seen = lost(gateway, upstream, reused=True, script=[close() if how == "FIN" else reset()], key=key)
    assert seen.status == 200 and len(asked(upstream)) == 3
    assert asked(upstream)[1].reused and not asked(upstream)[2].reused
    row = wait_for_row(session_database_url, seen.request_id)
    attempt, _ = row["attempts"]
    assert attempt["error"] == "upstream_connection_lost"
    # The provider may have read the lost attempt, so the most that it can cost is charged too.
    used = row["prompt_tokens"] + row["completion_tokens"]
    assert row["charged_tokens"] > used + 1_024


BROKEN_ANSWERS: dict[str, tuple[bool, Script]] = {
    "a fresh connection": (False, [close()]),
    "a kept connection, in the middle of the head": (True, [send(b"HTTP/1.1 200 OK\r\ncontent-ty"), close()]),
    "a kept connection, with no HTTP": (True, [send(b"hello\r\n\r\n"), close()]),
}


@pytest.mark.parametrize("name", BROKEN_ANSWERS)
def test_a_request_that_may_have_been_served_is_not_sent_twice(
    lone: tuple[Gateway, ScriptedUpstream], name: str
) -> None:
    gateway, upstream = lone
    upstream.reset_scripts()
    reused, script = BROKEN_ANSWERS[name]
    seen = lost(gateway, upstream, reused=reused, script=script)
    assert (seen.status, seen.error["code"]) == (502, "upstream_connection_lost")
    assert len(asked(upstream)) == 2 and asked(upstream)[1].reused is reused


def test_a_slow_head_is_one_answer(lone: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, upstream = lone
    upstream.reset_scripts()
    body = b'{"choices": [{"message": {"content": "hi"}}]}'
    upstream.enqueue([drip(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body, 9, 0.02)])
    assert post_chat(gateway, PREFIX + "dripped").json["choices"][0]["message"]["content"] == "hi"


@pytest.fixture(scope="module")
def plain(gateways: Gateways, session_database_url: str) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    """A gateway without retries: Fireworks is scripted, DeepInfra refuses connections."""
    with ScriptedUpstream() as upstream, refused_address() as refusing:
        deepinfra = {"DEEPINFRA_BASE_URL": refusing, "DEEPINFRA_API_KEY": "di_test"}
        settings = {"UPSTREAM_RETRIES": "0"} | upstream.settings | deepinfra
        with gateways.running(session_database_url, settings) as gateway:
            yield gateway, upstream


@soak_only("services/inference/test_dispatch.py::test_a_client_that_retries_by_itself_gets_one_attempt_each_time")
def test_retries_can_be_turned_off_and_then_the_sdk_may_retry(plain: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, upstream = plain
    upstream.on_model("off", OVERLOADED)
    seen = post_chat(gateway, PREFIX + "off")
    assert (seen.status, len(asked(upstream))) == (503, 1)
    assert "x-should-retry" not in seen.headers and int(seen.headers["retry-after"]) > 0


@soak_only("services/inference/test_dispatch.py::test_a_success_closes_the_breaker")
def test_a_suspended_account_fails_fast_until_a_probe_succeeds(
    plain: tuple[Gateway, ScriptedUpstream], session_database_url: str
) -> None:
    gateway, upstream = plain
    upstream.reset_scripts()
    upstream.on_model("acct", json_answer({"error": {"message": "Account acme is suspended."}}, 412))
    refused = [post_chat(gateway, PREFIX + "acct") for _ in range(4)]
    assert [seen.status for seen in refused] == [503] * 4 and len(asked(upstream)) == 2
    assert all(seen.headers["x-should-retry"] == "false" for seen in refused)
    assert not any("retry-after" in seen.headers for seen in refused), "waiting alone does not help"
    row = wait_for_row(session_database_url, refused[-1].request_id)
    assert (row["status"], row["outcome"], row["error_code"]) == (503, "upstream_error", "upstream_account_suspended")

    upstream.on_model("acct", chat_answer("hi"))
    wait_until(lambda: post_chat(gateway, PREFIX + "acct").status == 200, what="the probe")
    assert asked(upstream)[2].received_at - asked(upstream)[1].received_at >= 4.5
    assert post_chat(gateway, PREFIX + "acct").status == 200
    assert '"breaker_opened"' in gateway.log() and '"breaker_closed"' in gateway.log()


@soak_only("services/inference/test_dispatch.py::test_an_open_breaker_fails_the_request_without_an_attempt")
def test_a_provider_that_refuses_connections_fails_fast_after_five(plain: tuple[Gateway, ScriptedUpstream]) -> None:
    answers = [post_chat(plain[0], "m", provider="deepinfra") for _ in range(6)]
    assert [(seen.status, seen.error["code"]) for seen in answers] == [(502, "upstream_unreachable")] * 6
    assert ["retry-after" in seen.headers for seen in answers] == [False] * 5 + [True]
