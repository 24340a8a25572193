"""A worker's memory of failed targets: when they are avoided, tried again, and used again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.config import load_settings
from app.errors import UpstreamError, UpstreamRefused, UpstreamUnreachable
from app.runtime import get_component, use_settings
from app.services.providers import PROVIDERS
from app.services.quality import ModelQuality
from app.services.routing import Target, TargetHealth, health
from app.services.routing.health import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_STATES, PROBE_LIMIT_S

FIRST, SECOND = Target(PROVIDERS["deepinfra"], "m"), Target(PROVIDERS["chutes"], "m")
BOTH = [FIRST, SECOND]
FAILURE = UpstreamUnreachable("No connection.")


class Clock:
    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(health, "time", clock)
    use_settings(load_settings({}))
    yield clock
    use_settings(None)


@pytest.fixture
def memory(clock: Clock) -> TargetHealth:
    return get_component(TargetHealth)


def fail(memory: TargetHealth, times: int, error: UpstreamError = FAILURE) -> None:
    for _ in range(times):
        memory.record_failure(FIRST, error)


def test_a_target_is_avoided_after_failures_in_a_row_and_then_tried_by_one_request(
    memory: TargetHealth, clock: Clock
) -> None:
    fail(memory, 2)
    assert memory.choose(BOTH) is FIRST
    fail(memory, 1)
    assert memory.choose(BOTH) is SECOND and memory.choose([FIRST]) is FIRST
    clock.now_s += FIRST_PAUSE_S
    assert [memory.choose(BOTH) for _ in range(3)] == [FIRST, SECOND, SECOND]
    memory.record_success(FIRST)
    assert memory.choose(BOTH) is FIRST
    clock.now_s += 3_600
    memory.record_success(FIRST)
    assert memory.states == {}


def test_each_try_that_fails_doubles_the_pause(memory: TargetHealth, clock: Clock) -> None:
    fail(memory, 3)
    pause_s = FIRST_PAUSE_S
    for _ in range(6):
        clock.now_s += pause_s - 0.1
        assert memory.choose(BOTH) is SECOND
        clock.now_s += 0.2
        assert memory.choose(BOTH) is FIRST
        fail(memory, 1)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    assert pause_s == LONGEST_PAUSE_S


def test_a_try_without_a_result_makes_way_for_another(memory: TargetHealth, clock: Clock) -> None:
    fail(memory, 3)
    clock.now_s += FIRST_PAUSE_S
    assert memory.choose(BOTH) is FIRST
    memory.end_probe(FIRST)
    assert memory.choose(BOTH) is FIRST and memory.choose(BOTH) is SECOND
    clock.now_s += PROBE_LIMIT_S
    assert memory.choose(BOTH) is FIRST


def test_a_share_of_failures_is_enough_and_few_are_not(memory: TargetHealth) -> None:
    fail(memory, 1)
    for _ in range(3):
        memory.record_success(FIRST)
        memory.record_success(FIRST)
        assert memory.choose(BOTH) is FIRST
        fail(memory, 1)
    assert memory.choose(BOTH) is SECOND, "four of ten"


def test_old_failures_count_less(memory: TargetHealth, clock: Clock) -> None:
    for _ in range(20):
        clock.now_s += 120
        fail(memory, 1)
        memory.record_success(FIRST)
    assert memory.choose(BOTH) is FIRST


def test_a_limit_of_the_provider_counts_at_once_for_as_long_as_it_says(memory: TargetHealth, clock: Clock) -> None:
    limited = UpstreamRefused("Slow down.", status=429, retry_after_s=12.0)
    limited.upstream_status, limited.retry_after_is_upstreams = 429, True
    fail(memory, 1, limited)
    clock.now_s += 11.9
    assert memory.choose(BOTH) is SECOND
    clock.now_s += 0.2
    assert memory.choose(BOTH) is FIRST


def test_what_all_workers_met_counts_until_this_one_knows_better(
    memory: TargetHealth, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ModelQuality(requests=50, error_share=0.9)
    monkeypatch.setattr(
        health, "get_quality", lambda provider, model: bad if provider == "deepinfra" else ModelQuality()
    )
    assert memory.choose(BOTH) is SECOND
    clock.now_s += FIRST_PAUSE_S
    assert memory.choose(BOTH) is FIRST
    memory.record_success(FIRST)
    clock.now_s += 600
    memory.record_success(FIRST)
    assert memory.states == {} and memory.choose(BOTH) is FIRST


def test_few_requests_prove_nothing(memory: TargetHealth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "get_quality", lambda *_: ModelQuality(requests=3, error_share=1.0))
    assert memory.choose(BOTH) is FIRST and memory.states == {}


def test_the_memory_is_bounded(memory: TargetHealth) -> None:
    for number in range(MAX_STATES + 10):
        memory.record_failure(FIRST._replace(model=f"m{number}"), FAILURE)
    assert len(memory.states) == MAX_STATES and ("deepinfra", "m0") not in memory.states
