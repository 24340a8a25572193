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
from app.services.inference import open_breakers
from app.services.inference.circuit_breaker import (
    FIRST_PAUSE_S,
    KEY_IN_USE_S,
    LONGEST_PAUSE_S,
    MAX_MODEL_BREAKERS,
    PROBE_LIMIT_S,
    THRESHOLDS,
    CircuitBreakers,
    classify_failure,
)
from app.services.inference.open_breakers import (
    OpenBreaker,
    count_refused_models,
    get_open_breaker,
    get_open_breakers,
    get_open_model_breakers,
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
    monkeypatch.setattr(open_breakers, "time", clock)
    yield clock


def breakers() -> CircuitBreakers:
    return get_component(CircuitBreakers)


def fail(error: UpstreamError, model: str = "m", key: str = "k", provider: str = "fireworks") -> None:
    """Sends a request that fails, unless a breaker refuses it."""
    if refusal(provider, model, key) is None:
        breakers().record_failure(provider, model, key, error)


def open_breaker(kind: str, provider: str = "fireworks") -> None:
    """Opens the breaker of a whole provider, with two models and two gateway keys."""
    for number in range(THRESHOLDS[kind]):
        fail(FAILURES[kind], f"m{number % 2}", f"k{number % 2}", provider)


def refusal(provider: str = "fireworks", model: str = "other", key: str = "k") -> UpstreamError | None:
    try:
        breakers().raise_if_open(provider, model, key)
    except UpstreamError as error:
        return error
    return None


def succeed(provider: str = "fireworks", model: str = "other") -> None:
    breakers().record_success(provider, model)


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_it_opens_after_enough_failures_in_a_row_and_repeats_the_last_error(kind: str) -> None:
    for number in range(THRESHOLDS[kind] - 1):
        fail(FAILURES[kind], f"m{number % 2}", f"k{number % 2}")
    assert refusal() is None and get_open_breakers() == []
    number = THRESHOLDS[kind] - 1
    fail(FAILURES[kind], f"m{number % 2}", f"k{number % 2}")
    error, last = refusal(), FAILURES[kind]
    assert error is not None and error is not last and type(error) is type(last)
    assert (error.message, error.status, error.code, error.should_retry) == (
        last.message,
        last.status,
        last.code,
        last.should_retry,
    )
    # If the operator must act first, clients are given no time to retry after.
    waits = kind == "connect"
    assert error.retry_after_s == (FIRST_PAUSE_S if waits else None)
    assert ("retry-after" in error.headers(), "x-should-retry" in error.headers()) == (waits, not waits)
    assert get_open_breakers() == [OpenBreaker("fireworks", kind, FIRST_PAUSE_S, None, last.message)]


@pytest.mark.parametrize("kind", ["account", "key"])
def test_what_a_model_is_refused_counts_for_that_model(kind: str) -> None:
    for _ in range(20):
        fail(FAILURES[kind], "odd")
    error = refusal(model="odd")
    assert error is not None and error.headers() == {"x-should-retry": "false"}
    assert refusal(model="other") is None and refusal("deepinfra", "odd") is None
    assert get_open_breakers() == [] and count_refused_models() == {"fireworks": 1}
    (shown,) = get_open_model_breakers(5)
    assert (shown.provider, shown.kind, shown.model, shown.reason) == ("fireworks", kind, "odd", error.message)
    assert get_open_model_breakers(0) == []
    succeed(model="other")
    assert refusal(model="odd") is not None, "another model says nothing about this one"
    succeed(model="odd")
    assert refusal(model="odd") is None and count_refused_models() == {}


@pytest.mark.parametrize("kind", ["account", "key"])
def test_one_key_does_not_take_a_provider_from_the_others(kind: str) -> None:
    assert refusal(key="honest") is None
    for number in range(100):
        fail(FAILURES[kind], f"odd-{number}", "greedy")
    assert refusal(key="honest") is None and refusal(model="new", key="greedy") is None
    assert get_open_breakers() == []
    fail(FAILURES[kind], "another", "honest")
    assert refusal(key="third") is not None, "two keys have met it with two models"


@pytest.mark.parametrize("kind", ["account", "key"])
def test_one_key_does_not_take_a_model_from_the_others(kind: str) -> None:
    for _ in range(THRESHOLDS[kind]):
        fail(FAILURES[kind], "shared", "greedy")
    assert refusal(model="shared", key="greedy") is not None
    fail(FAILURES[kind], "shared", "honest")
    assert refusal(model="shared", key="third") is not None, "two keys have met it"
    succeed(model="shared")
    assert refusal(model="shared", key="greedy") is None


@pytest.mark.parametrize("kind", ["account", "key"])
def test_the_only_key_in_use_takes_a_provider_from_nobody_if_the_provider_can_be_asked(kind: str) -> None:
    asked: list[str] = []
    breakers()._probes.start = lambda name, on_refused: asked.append(name)  # type: ignore[method-assign]
    for number in range(100):
        fail(FAILURES[kind], f"odd-{number}", "greedy")
    assert refusal(key="new") is None and get_open_breakers() == [] and set(asked) == {"fireworks"}
    breakers()._open_refused("fireworks", FAILURES[kind])
    assert refusal(key="new") is not None and [one.kind for one in get_open_breakers()] == [kind]


def test_a_key_that_is_no_longer_in_use_need_not_be_refused_too(clock: Clock) -> None:
    assert refusal("chutes", key="yesterdays") is None
    clock.now_s += KEY_IN_USE_S + 1
    for number in range(THRESHOLDS["account"]):
        fail(SUSPENDED, f"m{number}", provider="chutes")
    assert refusal("chutes") is not None, "Chutes has no request of the gateway's own"


def test_only_two_models_keep_a_providers_breaker_open(clock: Clock) -> None:
    assert refusal(key="honest") is None
    for key in ("greedy", "honest"):
        fail(SUSPENDED, f"of-{key}", key)
    assert [one.kind for one in get_open_breakers()] == ["account"]
    clock.now_s += FIRST_PAUSE_S
    fail(SUSPENDED, "new", "greedy")
    assert refusal(model="good", key="honest") is None, "the probe of one key alone does not make the pause longer"
    succeed(model="good")
    assert get_open_breakers() == []


def test_a_probe_without_a_result_holds_the_others_up_for_a_while_only(clock: Clock) -> None:
    open_breaker("account")
    clock.now_s += FIRST_PAUSE_S
    assert refusal(model="slow") is None and refusal() is not None
    clock.now_s += PROBE_LIMIT_S
    assert refusal() is None


def test_the_number_of_remembered_models_is_bounded() -> None:
    for number in range(MAX_MODEL_BREAKERS + 50):
        fail(REFUSED_KEY, f"invented-{number}")
        succeed()
    assert len(breakers().model_breakers) == MAX_MODEL_BREAKERS
    assert ("fireworks", "invented-49", "key") not in breakers().model_breakers


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_a_success_in_between_resets_the_count(kind: str) -> None:
    for _ in range(5):
        for number in range(THRESHOLDS[kind] - 1):
            fail(FAILURES[kind], f"m{number % 2}")
        for number in range(2):
            succeed(model=f"m{number}")
    assert refusal() is None


def test_providers_do_not_share_breakers() -> None:
    open_breaker("account")
    assert refusal("fireworks") is not None and refusal("deepinfra") is None
    succeed("deepinfra")
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
    succeed()
    assert refusal() is None and get_open_breakers() == []


def test_failed_probes_make_the_pause_longer_up_to_a_bound(clock: Clock) -> None:
    open_breaker("connect")
    pauses = []
    for _ in range(8):
        clock.now_s += LONGEST_PAUSE_S
        assert refusal() is None
        breakers().record_failure("fireworks", "other", "k", UNREACHABLE)
        error = refusal()
        assert error is not None
        pauses.append(error.retry_after_s)
    assert pauses == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    clock.now_s += LONGEST_PAUSE_S
    assert refusal() is None
    succeed()
    open_breaker("connect")
    again = refusal()
    assert again is not None and again.retry_after_s == FIRST_PAUSE_S


def test_requests_that_were_under_way_when_it_opened_do_not_make_the_pause_longer() -> None:
    open_breaker("connect")
    for _ in range(20):
        breakers().record_failure("fireworks", "other", "k", UNREACHABLE)
    error = refusal()
    assert error is not None and error.retry_after_s == FIRST_PAUSE_S


def test_a_probe_with_another_failure_allows_the_next_probe(clock: Clock) -> None:
    open_breaker("connect")
    clock.now_s += FIRST_PAUSE_S
    assert refusal() is None
    breakers().record_failure("fireworks", "other", "k", UpstreamError("500"))
    assert refusal() is None


def test_a_released_probe_allows_the_next_probe(clock: Clock) -> None:
    open_breaker("connect")
    clock.now_s += FIRST_PAUSE_S
    assert refusal() is None and refusal() is not None
    breakers().release_probes("fireworks", "other")
    assert refusal() is None


def test_an_open_breaker_delays_the_probe_of_another(clock: Clock) -> None:
    open_breaker("connect")
    clock.now_s += FIRST_PAUSE_S - 1
    for number in range(THRESHOLDS["account"]):
        breakers().record_failure("fireworks", f"m{number}", f"k{number}", SUSPENDED)
    clock.now_s += 1
    assert refusal() is not None, "the account's breaker is still open"
    clock.now_s += FIRST_PAUSE_S
    assert refusal() is None and refusal() is not None
    succeed()
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
    for number in range(20):
        breakers().record_failure("fireworks", f"m{number % 2}", f"k{number % 2}", error)
    assert (refusal() is None) is (kind is None)


def test_opening_and_closing_are_each_logged_once(capfd: pytest.CaptureFixture[str], clock: Clock) -> None:
    open_breaker("connect")
    breakers().record_failure("fireworks", "other", "k", UNREACHABLE)
    clock.now_s += FIRST_PAUSE_S
    assert refusal() is None
    succeed()
    succeed()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "breaker_opened" in lines[0] and "breaker_closed" in lines[1]


def test_the_breaker_that_a_model_meets_is_the_one_that_ends_last(clock: Clock) -> None:
    assert get_open_breaker("p", "a") is None
    for _ in range(THRESHOLDS["key"]):
        breakers().record_failure("p", "a", "key-1", REFUSED_KEY)
    assert get_open_breaker("p", "a") == OpenBreaker("p", "key", FIRST_PAUSE_S)
    assert get_open_breaker("p", "b") is None and get_open_breaker("q", "a") is None

    clock.now_s += 2
    for _ in range(THRESHOLDS["connect"]):
        breakers().record_failure("p", "b", "key-1", UNREACHABLE)
    assert get_open_breaker("p", "a") == get_open_breaker("p", "c") == OpenBreaker("p", "connect", FIRST_PAUSE_S)

    breakers().record_success("p", "c")
    assert get_open_breaker("p", "a") == OpenBreaker("p", "key", FIRST_PAUSE_S - 2)
    breakers().record_success("p", "a")
    assert get_open_breaker("p", "a") is None
