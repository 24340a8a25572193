"""A breaker opens after failures in a row, fails fast, allows one probe, and closes when that succeeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.config import load_settings
from app.errors import (
    UpstreamAuthenticationFailed,
    UpstreamCut,
    UpstreamError,
    UpstreamRefused,
    UpstreamSuspended,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.runtime import get_component, use_settings
from app.services.inference import circuit_breaker as breaker
from app.services.inference.circuit_breaker import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    THRESHOLDS,
    CircuitBreakers,
    OpenBreaker,
    classify_failure,
    get_open_breakers,
)

UNREACHABLE = UpstreamUnreachable("No connection.")
SUSPENDED = UpstreamSuspended("Suspended.")
REFUSED_KEY = UpstreamAuthenticationFailed("Refused.", status=401)
FAILURES: dict[str, UpstreamError] = {"connect": UNREACHABLE, "account": SUSPENDED, "key": REFUSED_KEY}


class Clock:
    """The monotonic clock of these tests."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    use_settings(load_settings({}))
    monkeypatch.setattr(breaker, "time", clock)
    yield clock


def breakers() -> CircuitBreakers:
    return get_component(CircuitBreakers)


def open_breaker(kind: str, provider: str = "fireworks") -> None:
    for _ in range(THRESHOLDS[kind]):
        breakers().raise_if_open(provider)
        breakers().record_failure(provider, FAILURES[kind])


def refusal(provider: str = "fireworks") -> UpstreamError | None:
    try:
        breakers().raise_if_open(provider)
    except UpstreamError as error:
        return error
    return None


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_it_opens_after_enough_failures_in_a_row_and_repeats_the_last_error(kind: str) -> None:
    for _ in range(THRESHOLDS[kind] - 1):
        breakers().record_failure("fireworks", FAILURES[kind])
    assert refusal() is None and get_open_breakers() == []
    breakers().record_failure("fireworks", FAILURES[kind])
    error, last = refusal(), FAILURES[kind]
    assert error is not None and error is not last and type(error) is type(last)
    assert (error.message, error.status, error.code, error.should_retry) == (
        last.message,
        last.status,
        last.code,
        last.should_retry,
    )
    assert error.retry_after_s == FIRST_PAUSE_S and "retry-after" in error.headers()
    assert get_open_breakers() == [OpenBreaker("fireworks", kind, FIRST_PAUSE_S)]


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_a_success_in_between_resets_the_count(kind: str) -> None:
    for _ in range(5):
        for _ in range(THRESHOLDS[kind] - 1):
            breakers().record_failure("fireworks", FAILURES[kind])
        breakers().record_success("fireworks")
    assert refusal() is None


def test_providers_do_not_share_breakers() -> None:
    open_breaker("account")
    assert refusal("fireworks") is not None and refusal("deepinfra") is None
    breakers().record_success("deepinfra")
    assert refusal("fireworks") is not None


def test_one_request_probes_and_the_others_keep_failing_fast(clock: Clock) -> None:
    open_breaker("connect")
    clock.now_s += FIRST_PAUSE_S - 0.1
    assert refusal() is not None
    clock.now_s += 0.2
    assert refusal() is None
    for _ in range(10):
        error = refusal()
        assert error is not None and error.retry_after_s == 1.0
    breakers().record_success("fireworks")
    assert refusal() is None and get_open_breakers() == []


def test_failed_probes_make_the_pause_longer_up_to_a_bound(clock: Clock) -> None:
    open_breaker("connect")
    pauses = []
    for _ in range(8):
        clock.now_s += LONGEST_PAUSE_S
        assert refusal() is None
        breakers().record_failure("fireworks", UNREACHABLE)
        error = refusal()
        assert error is not None
        pauses.append(error.retry_after_s)
    assert pauses == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    clock.now_s += LONGEST_PAUSE_S
    assert refusal() is None
    breakers().record_success("fireworks")
    open_breaker("connect")
    again = refusal()
    assert again is not None and again.retry_after_s == FIRST_PAUSE_S


def test_requests_that_were_under_way_when_it_opened_do_not_make_the_pause_longer() -> None:
    open_breaker("connect")
    for _ in range(20):
        breakers().record_failure("fireworks", UNREACHABLE)
    error = refusal()
    assert error is not None and error.retry_after_s == FIRST_PAUSE_S


def test_a_probe_with_another_failure_allows_the_next_probe(clock: Clock) -> None:
    open_breaker("connect")
    clock.now_s += FIRST_PAUSE_S
    assert refusal() is None
    breakers().record_failure("fireworks", UpstreamError("500"))
    assert refusal() is None


def test_a_released_probe_allows_the_next_probe(clock: Clock) -> None:
    open_breaker("connect")
    clock.now_s += FIRST_PAUSE_S
    assert refusal() is None and refusal() is not None
    breakers().release_probes("fireworks")
    assert refusal() is None


def test_an_open_breaker_delays_the_probe_of_another(clock: Clock) -> None:
    open_breaker("connect")
    clock.now_s += FIRST_PAUSE_S - 1
    for _ in range(THRESHOLDS["account"]):
        breakers().record_failure("fireworks", SUSPENDED)
    clock.now_s += 1
    assert refusal() is not None, "the account's breaker is still open"
    clock.now_s += FIRST_PAUSE_S
    assert refusal() is None and refusal() is not None
    breakers().record_success("fireworks")
    assert get_open_breakers() == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SUSPENDED, "account"),
        (REFUSED_KEY, "key"),
        (UpstreamUnreachable("x"), "connect"),
        (UpstreamTimeout("x", code="upstream_connect_timeout"), "connect"),
        (UpstreamUnreachable("x", code="upstream_tls_error"), "connect"),
        (UpstreamUnreachable("x", code="upstream_connection_lost"), None),
        (UpstreamTimeout("x", code="upstream_first_byte_timeout"), None),
        (UpstreamRefused("x", status=429, type="rate_limit_error"), None),
        (UpstreamError("x", status=503), None),
        (UpstreamCut("x"), None),
    ],
)
def test_only_failures_that_the_next_request_would_meet_count(error: UpstreamError, kind: str | None) -> None:
    assert classify_failure(error) == kind
    for _ in range(20):
        breakers().record_failure("fireworks", error)
    assert (refusal() is None) is (kind is None)


def test_opening_and_closing_are_each_logged_once(capfd: pytest.CaptureFixture[str], clock: Clock) -> None:
    open_breaker("account")
    breakers().record_failure("fireworks", SUSPENDED)
    clock.now_s += FIRST_PAUSE_S
    breakers().raise_if_open("fireworks")
    breakers().record_success("fireworks")
    breakers().record_success("fireworks")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "breaker_opened" in lines[0] and "breaker_closed" in lines[1]
