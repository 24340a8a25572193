"""Retries: only after failures that are safe to retry, with bounded pauses, and never past the deadline."""

from __future__ import annotations

import time as real_time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import ClientGone, UpstreamError, UpstreamRefused, UpstreamSuspended, UpstreamUnreachable
from app.runtime import get_component, use_settings
from app.services.endpoints import CHAT, InferenceBody
from app.services.inference import circuit_breaker as breaker
from app.services.inference import dispatch as subject
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.circuit_breaker import CircuitBreakers
from app.services.inference.dispatch import FIRST_PAUSE_S, LONGEST_PAUSE_S, Dispatcher
from app.services.inference.exchange import Exchange
from app.services.inference.open_breakers import count_refused_models
from app.services.providers import PROVIDERS, get_client
from app.services.routing import Target
from app.services.streaming import ClientConnection
from app.upstream import Response
from tests.services.inference.chat_core import settings_for
from tests.support.answers import chat_answer, json_answer
from tests.support.scripted_upstream import ScriptedUpstream, refused_address
from tests.support.scripts import Script, close, hang, reset

FIREWORKS = PROVIDERS["fireworks"]
REQUEST = UpstreamRequest(
    target=Target(FIREWORKS, "m"),
    path="/chat/completions",
    content=b"{}",
    body={},
    stream=False,
    show_usage=False,
    service_tier=None,
    dropped=[],
    prompt_tokens_estimate=1,
    fields=InferenceBody("m"),
    support=FIREWORKS.serves["chat"],
)


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
    return clock


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        configure(upstream.base_url, tmp_path)
        yield upstream


def configure(base_url: str, place: Path, **changes: str) -> None:
    """Starts a runtime with Fireworks at `base_url`, new connections, and all breakers closed."""
    use_settings(settings_for(base_url, JOURNAL_DIR=str(place / "journal"), **changes))


def make_exchange(seconds: float = 60.0) -> Exchange:
    exchange = Exchange(CHAT, "key", ClientConnection(None))
    exchange.deadline_s = real_time.monotonic() + seconds
    return exchange


def send(exchange: Exchange | None = None) -> Response:
    return get_component(Dispatcher).dispatch(exchange or make_exchange(), REQUEST)


def read(response: Response) -> bytes:
    return response.read(idle_timeout_s=10, deadline_s=1e12)


def get_account_breaker() -> breaker.Breaker:
    return get_component(CircuitBreakers).model_breakers["fireworks", "m", "account"]


def failing(status: int, headers: dict[str, str] | None = None) -> Script:
    return json_answer({"error": "no"}, status, headers)


RETRIED = [408, 429, 500, 502, 503, 504, 520, 524]
NOT_RETRIED = [400, 401, 402, 403, 404, 405, 412, 413, 422, 425, 302, 501, 530]


@pytest.mark.parametrize("status", RETRIED)
def test_a_transient_failure_is_retried(upstream: ScriptedUpstream, clock: Clock, status: int) -> None:
    upstream.enqueue(failing(status), failing(status), chat_answer("third time"))
    exchange = make_exchange()
    assert b"third time" in read(send(exchange))
    attempts = exchange.record.attempts
    assert [attempt["status"] for attempt in attempts] == [status, status, 200]
    assert all(attempt["error"] for attempt in attempts[:2]) and attempts[2]["error"] is None
    assert all(attempt["ms"] >= 0 for attempt in attempts)
    assert len(clock.pauses) == 2 and len(upstream.requests) == 3


@pytest.mark.parametrize("status", NOT_RETRIED)
def test_a_permanent_failure_is_not_retried(upstream: ScriptedUpstream, clock: Clock, status: int) -> None:
    upstream.enqueue(failing(status))
    exchange = make_exchange()
    with pytest.raises(UpstreamError) as caught:
        send(exchange)
    assert caught.value.upstream_status == status
    assert len(upstream.requests) == len(exchange.record.attempts) == 1 and clock.pauses == []


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
def test_what_comes_out_after_retries_asks_for_a_pause_and_does_not_forbid_a_retry(
    upstream: ScriptedUpstream, tmp_path: Path, retries: int
) -> None:
    upstream.default = failing(503)
    configure(upstream.base_url, tmp_path, UPSTREAM_RETRIES=str(retries))
    exchange = make_exchange()
    with pytest.raises(UpstreamError) as caught:
        send(exchange)
    assert len(upstream.requests) == len(exchange.record.attempts) == retries + 1
    assert caught.value.status == 503
    assert caught.value.headers() == {"retry-after": "2"}  # A 503 has it even without retries.


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_failure_that_outlasts_the_retries_asks_for_a_pause_whatever_its_status(
    upstream: ScriptedUpstream, status: int
) -> None:
    upstream.default = failing(status)
    with pytest.raises(UpstreamError) as caught:
        send()
    assert caught.value.headers() == {"retry-after": "2"}


@pytest.mark.parametrize(("client_retry", "attempts"), [(None, 3), (0, 3), (1, 1), (2, 1)])
def test_a_client_that_retries_by_itself_gets_one_attempt_each_time(
    upstream: ScriptedUpstream, client_retry: int | None, attempts: int
) -> None:
    upstream.default = failing(503)
    exchange = make_exchange()
    exchange.record.client_retry = client_retry
    with pytest.raises(UpstreamError):
        send(exchange)
    assert len(upstream.requests) == attempts


def test_a_retry_of_the_client_does_not_meet_a_stale_connection(upstream: ScriptedUpstream) -> None:
    read(send())
    upstream.enqueue([reset()], chat_answer("again"))
    exchange = make_exchange()
    exchange.record.client_retry = 1
    assert b"again" in read(send(exchange))


def test_a_reset_is_retried_on_a_reused_connection_and_not_on_a_new_one(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    read(send())
    upstream.enqueue([reset()], chat_answer("again"))
    exchange = make_exchange()
    assert b"again" in read(send(exchange))
    assert [attempt["status"] for attempt in exchange.record.attempts] == [None, 200]
    configure(upstream.base_url, tmp_path)
    upstream.enqueue([close()])
    exchange = make_exchange()
    with pytest.raises(UpstreamUnreachable):
        send(exchange)
    assert len(exchange.record.attempts) == 1


def test_a_refused_connection_is_retried(tmp_path: Path, clock: Clock) -> None:
    with refused_address() as base_url:
        configure(base_url, tmp_path)
        exchange = make_exchange()
        with pytest.raises(UpstreamUnreachable):
            send(exchange)
    assert len(exchange.record.attempts) == 3 and len(clock.pauses) == 2


def test_a_silent_provider_gets_no_retry(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.enqueue([hang()])
    configure(upstream.base_url, tmp_path, UPSTREAM_FIRST_BYTE_TIMEOUT="0.05")
    with pytest.raises(UpstreamError):
        send()
    upstream.wait_for(lambda seen: seen.method == "POST")
    assert len(upstream.requests) == 1


def test_pauses_are_drawn_below_a_bound_that_doubles(upstream: ScriptedUpstream, tmp_path: Path, clock: Clock) -> None:
    upstream.default = failing(500)
    configure(upstream.base_url, tmp_path, UPSTREAM_RETRIES="8")
    with pytest.raises(UpstreamError):
        send(make_exchange(seconds=1000))
    bounds = [min(FIRST_PAUSE_S * 2**count, LONGEST_PAUSE_S) for count in range(8)]
    assert all(0 <= pause_s <= bound_s for pause_s, bound_s in zip(clock.pauses, bounds, strict=True))
    assert len(set(clock.pauses)) == 8


@pytest.mark.parametrize(("headers", "least_s"), [({"retry-after": "3"}, 3.0), ({"retry-after-ms": "1200"}, 1.2)])
def test_the_pause_that_the_provider_asks_for_is_observed(
    upstream: ScriptedUpstream, clock: Clock, headers: dict[str, str], least_s: float
) -> None:
    upstream.enqueue(failing(429, headers))
    send().body.close()
    assert least_s <= clock.pauses[0] <= least_s + FIRST_PAUSE_S


def test_a_pause_that_is_too_long_is_left_to_the_client(upstream: ScriptedUpstream, clock: Clock) -> None:
    upstream.enqueue(failing(429, {"retry-after": "30"}))
    with pytest.raises(UpstreamRefused) as caught:
        send()
    assert clock.pauses == [] and caught.value.headers() == {"retry-after": "30"}


def test_there_is_no_retry_past_the_deadline(upstream: ScriptedUpstream, tmp_path: Path, clock: Clock) -> None:
    upstream.default = failing(503, {"retry-after": "2"})
    configure(upstream.base_url, tmp_path, UPSTREAM_RETRIES="10")
    exchange = make_exchange(seconds=5.0)
    with pytest.raises(UpstreamError):
        send(exchange)
    assert sum(clock.pauses) < 5.0 and len(exchange.record.attempts) == len(upstream.requests) <= 3


def count_chats(upstream: ScriptedUpstream) -> int:
    """Returns how many chat requests arrived, without the gateway's own request about its account."""
    return len([seen for seen in list(upstream.requests) if seen.path.endswith("/chat/completions")])


def open_account_breaker(upstream: ScriptedUpstream) -> breaker.Breaker:
    upstream.enqueue(failing(402), failing(402))
    for _ in range(2):
        with pytest.raises(UpstreamSuspended):
            send()
    return get_account_breaker()


def test_an_open_breaker_fails_the_request_without_an_attempt(upstream: ScriptedUpstream) -> None:
    state = open_account_breaker(upstream)
    exchange = make_exchange()
    for _ in range(5):
        with pytest.raises(UpstreamSuspended) as caught:
            send(exchange)
        assert caught.value.headers() == {"x-should-retry": "false"}
    assert count_chats(upstream) == 2 and exchange.record.attempts == [] and not exchange.is_sent
    assert state.failures == 2 and state.pause_s == breaker.FIRST_PAUSE_S


def test_requests_that_fail_fast_during_a_probe_do_not_end_it(upstream: ScriptedUpstream) -> None:
    state = open_account_breaker(upstream)
    state.open_until_s = 0.0
    get_component(CircuitBreakers).raise_if_open("fireworks", "m", "key")
    for _ in range(5):
        with pytest.raises(UpstreamSuspended):
            send()
    assert state.probe_ends_s > 0 and state.pause_s == breaker.FIRST_PAUSE_S and count_chats(upstream) == 2


def test_a_success_closes_the_breaker(upstream: ScriptedUpstream) -> None:
    open_account_breaker(upstream).open_until_s = 0.0
    send().body.close()
    assert count_refused_models() == {}


def test_a_disconnect_during_a_probe_releases_it(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    state = open_account_breaker(upstream)
    state.open_until_s = 0.0

    def disconnect(*_: object, **__: object) -> Response:
        assert state.probe_ends_s > 0
        raise ClientGone

    monkeypatch.setattr(get_client(FIREWORKS), "post", disconnect)
    with pytest.raises(ClientGone):
        send()
    assert state.probe_ends_s == 0 and state.is_open
