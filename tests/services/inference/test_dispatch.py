"""Retries: only after failures that left nothing behind, with pauses that are bounded, and never past the deadline."""

from __future__ import annotations

import time as real_time
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import ClientGone, UpstreamError, UpstreamRefused, UpstreamSuspended, UpstreamUnreachable
from app.services.inference import circuit_breaker as breaker
from app.services.inference import dispatch as subject
from app.services.inference.dispatch import FIRST_PAUSE_S, LONGEST_PAUSE_S, post_chat_with_retries
from app.upstream import Response, UpstreamClient
from tests.services.inference.chat_core import client_for
from tests.support.answers import chat_answer, json_answer
from tests.support.scripted_upstream import ScriptedUpstream, refused_address
from tests.support.scripts import Script, close, hang, reset


class Clock:
    """A clock on which a pause takes no time, and the pauses that were made."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return real_time.monotonic() + sum(self.pauses)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(subject, "time", clock)
    monkeypatch.setattr(breaker, "_breakers", {})
    return clock


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def post(client: UpstreamClient, attempts: list[Any], retries: int = 2, seconds: float = 60.0) -> Response:
    return post_chat_with_retries(
        client,
        "fireworks",
        b"{}",
        stream=False,
        retries=retries,
        deadline_s=real_time.monotonic() + seconds,
        attempts=attempts,
    )


def failing(status: int, headers: dict[str, str] | None = None) -> Script:
    return json_answer({"error": "no"}, status, headers)


RETRIED = [408, 429, 500, 502, 503, 504, 520, 524]
NOT_RETRIED = [400, 401, 402, 403, 404, 405, 412, 413, 422, 425, 302, 501, 530]


@pytest.mark.parametrize("status", RETRIED)
def test_a_failure_that_passes_is_tried_again(upstream: ScriptedUpstream, clock: Clock, status: int) -> None:
    upstream.enqueue(failing(status), failing(status), chat_answer("third time"))
    attempts: list[Any] = []
    answer = post(client_for(upstream.base_url), attempts)
    assert b"third time" in answer.read(idle_timeout_s=10, deadline_s=1e12)
    assert [attempt["status"] for attempt in attempts] == [status, status, 200]
    assert all(attempt["error"] for attempt in attempts[:2]) and attempts[2]["error"] is None
    assert all(attempt["ms"] >= 0 for attempt in attempts)
    assert len(clock.pauses) == 2 and len(upstream.requests) == 3


@pytest.mark.parametrize("status", NOT_RETRIED)
def test_a_failure_that_stays_is_not_tried_again(upstream: ScriptedUpstream, clock: Clock, status: int) -> None:
    upstream.enqueue(failing(status))
    attempts: list[Any] = []
    with pytest.raises(UpstreamError) as caught:
        post(client_for(upstream.base_url), attempts)
    assert caught.value.upstream_status == status
    assert len(upstream.requests) == len(attempts) == 1 and clock.pauses == []


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
def test_what_comes_out_after_retries_tells_the_client_not_to_retry(upstream: ScriptedUpstream, retries: int) -> None:
    upstream.default = failing(503)
    attempts: list[Any] = []
    with pytest.raises(UpstreamError) as caught:
        post(client_for(upstream.base_url), attempts, retries)
    assert len(upstream.requests) == len(attempts) == retries + 1
    assert caught.value.status == 503
    assert caught.value.headers().get("x-should-retry") == (None if retries == 0 else "false")


def test_a_reset_on_a_kept_connection_is_tried_again_and_on_a_fresh_one_is_not(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    attempts: list[Any] = []
    post(client, attempts).read(idle_timeout_s=10, deadline_s=1e12)
    upstream.enqueue([reset()], chat_answer("again"))
    assert b"again" in post(client, attempts).read(idle_timeout_s=10, deadline_s=1e12)
    assert [attempt["status"] for attempt in attempts] == [None, 200]
    fresh = client_for(upstream.base_url)
    upstream.enqueue([close()])
    with pytest.raises(UpstreamUnreachable):
        post(fresh, attempts)
    assert len(attempts) == 3


def test_a_refused_connection_is_tried_again(clock: Clock) -> None:
    attempts: list[Any] = []
    with refused_address() as base_url, pytest.raises(UpstreamUnreachable):
        post(client_for(base_url), attempts)
    assert len(attempts) == 3 and len(clock.pauses) == 2


def test_a_silent_provider_is_not_asked_twice(upstream: ScriptedUpstream) -> None:
    upstream.enqueue([hang()])
    with pytest.raises(UpstreamError):
        post(client_for(upstream.base_url, UPSTREAM_FIRST_BYTE_TIMEOUT="0.05"), [])
    assert len(upstream.requests) == 1


def test_pauses_are_drawn_below_a_bound_that_doubles(upstream: ScriptedUpstream, clock: Clock) -> None:
    upstream.default = failing(500)
    with pytest.raises(UpstreamError):
        post(client_for(upstream.base_url), [], retries=8, seconds=1000)
    bounds = [min(FIRST_PAUSE_S * 2**count, LONGEST_PAUSE_S) for count in range(8)]
    assert all(0 <= pause_s <= bound_s for pause_s, bound_s in zip(clock.pauses, bounds, strict=True))
    assert len(set(clock.pauses)) == 8


@pytest.mark.parametrize(("headers", "least_s"), [({"retry-after": "3"}, 3.0), ({"retry-after-ms": "1200"}, 1.2)])
def test_the_pause_that_the_provider_asks_for_is_kept(
    upstream: ScriptedUpstream, clock: Clock, headers: dict[str, str], least_s: float
) -> None:
    upstream.enqueue(failing(429, headers))
    post(client_for(upstream.base_url), []).body.close()
    assert least_s <= clock.pauses[0] <= least_s + FIRST_PAUSE_S


def test_a_pause_that_is_too_long_to_hold_a_place_is_the_clients(upstream: ScriptedUpstream, clock: Clock) -> None:
    upstream.enqueue(failing(429, {"retry-after": "30"}))
    with pytest.raises(UpstreamRefused) as caught:
        post(client_for(upstream.base_url), [])
    assert clock.pauses == [] and caught.value.headers() == {"retry-after": "30"}


def test_nothing_is_tried_past_the_deadline(upstream: ScriptedUpstream, clock: Clock) -> None:
    upstream.default = failing(503, {"retry-after": "2"})
    attempts: list[Any] = []
    with pytest.raises(UpstreamError):
        post(client_for(upstream.base_url), attempts, retries=10, seconds=5.0)
    assert sum(clock.pauses) < 5.0 and len(attempts) == len(upstream.requests) <= 3


def test_an_open_breaker_answers_without_an_attempt_and_does_not_count_as_one(upstream: ScriptedUpstream) -> None:
    upstream.default = json_answer({"error": "Account acme-example is suspended"}, 412)
    client = client_for(upstream.base_url)
    for _ in range(2):
        with pytest.raises(UpstreamSuspended):
            post(client, [])
    attempts: list[Any] = []
    for _ in range(5):
        with pytest.raises(UpstreamSuspended) as caught:
            post(client, attempts)
        assert caught.value.retry_after_s is not None
    assert len(upstream.requests) == 2 and attempts == []
    state = breaker._breakers["fireworks", "account"]
    assert state.failures == 2 and state.pause_s == breaker.FIRST_PAUSE_S


def test_requests_that_fail_fast_during_a_probe_leave_the_probe_alone(upstream: ScriptedUpstream) -> None:
    upstream.default = failing(402)
    client = client_for(upstream.base_url)
    for _ in range(2):
        with pytest.raises(UpstreamSuspended):
            post(client, [])
    state = breaker._breakers["fireworks", "account"]
    state.open_until_s = 0.0
    breaker.check_breakers("fireworks")
    for _ in range(5):
        with pytest.raises(UpstreamSuspended):
            post(client, [])
    assert state.probing and state.pause_s == breaker.FIRST_PAUSE_S and len(upstream.requests) == 2


def test_a_success_closes_the_breaker(upstream: ScriptedUpstream) -> None:
    upstream.enqueue(failing(402), failing(402))
    client = client_for(upstream.base_url)
    for _ in range(2):
        with pytest.raises(UpstreamSuspended):
            post(client, [])
    breaker._breakers["fireworks", "account"].open_until_s = 0.0
    post(client, []).body.close()
    assert breaker.get_open_breakers() == []


def test_a_client_that_leaves_during_a_probe_gives_it_up(upstream: ScriptedUpstream) -> None:
    upstream.enqueue(failing(402), failing(402))
    client = client_for(upstream.base_url)
    for _ in range(2):
        with pytest.raises(UpstreamSuspended):
            post(client, [])
    state = breaker._breakers["fireworks", "account"]
    state.open_until_s = 0.0

    class Leaving:
        def post(self, path: str, body: bytes, *, stream: bool) -> Response:
            assert state.probing
            raise ClientGone

    with pytest.raises(ClientGone):
        post(Leaving(), [])  # type: ignore[arg-type]
    assert not state.probing and state.is_open
