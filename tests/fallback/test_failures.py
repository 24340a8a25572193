"""Each failure of a provider, as the first, the middle, the last and at all of three targets."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import pytest

from app.config import ROOT
from app.db.engine import create_engine_for
from app.db.recent_quality import select_recent_quality
from tests.fallback.failures import FAILURES, OVERLOADED, Failure
from tests.fallback.providers import PROVIDERS, Providers, get_cost, get_model, serve
from tests.support.chat import Seen
from tests.support.waiting import wait_until

# The index of the failing target; those before it are overloaded, and those after it serve.
POSITIONS = {"first": 0, "middle": 1, "last": 2, "all": 0}

_AT_ONCE = 12


class Case(NamedTuple):
    """A request, and the behaviour of its targets."""

    failure: Failure
    position: str
    is_stream: bool

    def __str__(self) -> str:
        return f"{self.failure.name}, {self.position}, {'streamed' if self.is_stream else 'whole'}"

    def get_plan(self) -> list[Failure | None]:
        """Returns the failure of each target, in order; None is a good answer."""
        if self.position == "all":
            return [self.failure] * 3
        before = POSITIONS[self.position]
        return [*[OVERLOADED] * before, self.failure, *[None] * (2 - before)]


class Met(NamedTuple):
    """The result of a request: the client's response, the providers that were asked, in order, and the record."""

    number: int
    seen: Seen
    called: list[str]
    row: dict[str, Any]


CASES = {
    str(case): case
    for failure in FAILURES
    for position in POSITIONS
    for is_stream in (False, True)
    if failure.only != ("whole" if is_stream else "streamed")
    for case in [Case(failure, position, is_stream)]
}


@pytest.fixture(scope="module")
def met(providers: Providers) -> dict[str, Met]:
    """The result of each case, by its name."""
    asked: dict[str, tuple[int, Seen]] = {}

    def ask(name: str) -> None:
        case, number = CASES[name], providers.take_number()
        scripts = [
            serve(is_stream=case.is_stream) if failure is None else failure.get_script(is_stream=case.is_stream)
            for failure in case.get_plan()
        ]
        asked[name] = number, providers.ask(number, list(zip(PROVIDERS, scripts, strict=True)), stream=case.is_stream)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(ask, [name for name, case in CASES.items() if not case.failure.blames_account]))
    for name in [name for name, case in CASES.items() if case.failure.blames_account]:
        ask(name)
        close_breakers(providers)
    rows = providers.wait_for_rows("request_id", [seen.request_id for _, seen in asked.values()])
    return {
        name: Met(number, seen, [provider for provider, _ in providers.get_calls(number)], rows[seen.request_id])
        for name, (number, seen) in asked.items()
    }


def close_breakers(providers: Providers) -> None:
    """Lets each provider serve a request, because a few refusals of its account or key in a row would open breakers."""
    for provider in PROVIDERS:
        # Repeated, because on a busy machine a request may time out, which closes no breaker.
        wait_until(partial(is_served, providers, provider), what=f"{provider} to serve")


def is_served(providers: Providers, provider: str) -> bool:
    """Returns whether the provider serves a request."""
    return providers.ask(providers.take_number(), [(provider, serve(is_stream=False))]).status == 200


def find_tried(case: Case) -> list[Failure | None]:
    """Returns the failures of the targets that must be tried, in order."""
    tried = []
    for failure in case.get_plan():
        tried.append(failure)
        if failure is None or failure.ends:
            break
    return tried


@pytest.mark.parametrize("name", CASES)
def test_the_targets_are_tried_in_order_until_one_serves_or_refuses_the_request(met: dict[str, Met], name: str) -> None:
    tried, (_, seen, called, row) = find_tried(CASES[name]), met[name]
    assert called == list(PROVIDERS[: len(tried)])
    shown = [f"{provider}={failure.shown if failure else 200}" for provider, failure in zip(called, tried, strict=True)]
    assert seen.headers.get("x-gateway-attempts") == (", ".join(shown) if len(shown) > 1 else None)
    assert [attempt["provider"] for attempt in row["attempts"]] == called


@pytest.mark.parametrize("name", CASES)
def test_the_client_gets_one_whole_answer_or_one_true_error(met: dict[str, Met], name: str) -> None:
    case, (_, seen, _, row) = CASES[name], met[name]
    tried = find_tried(case)
    assert not seen.cut
    if tried[-1] is None:
        assert seen.status == 200 and not seen.error
        assert seen.body.count(b"[DONE]") == case.is_stream
        assert row["outcome"] == "ok" and seen.headers["x-gateway-provider"] == row["gateway"]
        return
    assert seen.error.keys() == {"message", "type", "param", "code"}
    told = tried[PROVIDERS.index(row["gateway"])]
    assert told is not None and seen.status == told.status
    assert row["outcome"].startswith("upstream_") and row["status"] == seen.status
    assert (row["error_type"], row["error_code"]) == (seen.error["type"], seen.error["code"])
    if tried[-1].ends:
        assert row["gateway"] == PROVIDERS[len(tried) - 1]
    elif case.position == "last" and case.failure.waits:
        assert told is OVERLOADED  # A retry can help.


@pytest.mark.parametrize("name", CASES)
def test_the_record_has_what_served_and_what_each_attempt_met(met: dict[str, Met], name: str) -> None:
    case, (number, _, _, row) = CASES[name], met[name]
    tried = find_tried(case)
    for provider, failure, attempt in zip(PROVIDERS[: len(tried)], tried, row["attempts"], strict=True):
        assert attempt.keys() == {"provider", "model", "status", "error", "ms", "tokens", "cost_usd"}
        assert attempt["model"] == get_model(provider, number) and attempt["ms"] > 0
        assert bool(attempt["error"]) is (failure is not None)
        if failure is not None and failure.shown.isdigit():
            assert attempt["status"] == int(failure.shown)
    if tried[-1] is None:
        last = PROVIDERS[len(tried) - 1]
        assert (row["gateway"], row["prompt_tokens"], row["completion_tokens"]) == (last, 11, 3)
        assert (row["cost_usd"], row["cost_kind"]) == (get_cost(last), "exact")
        assert row["attempts"][-1]["tokens"] == 14
        assert Decimal(row["attempts"][-1]["cost_usd"]) == get_cost(last)
    else:
        assert row["usage_source"] == "none"


def test_what_a_provider_failed_counts_for_its_quality_once(met: dict[str, Met], session_database_url: str) -> None:
    wanted, models = Counter[tuple[str, str]](), set()
    for name, case in CASES.items():
        models |= {(provider, get_model(provider, met[name].number)) for provider in PROVIDERS}
        for provider, failure in zip(PROVIDERS, find_tried(case), strict=False):
            # The target whose error or answer the client got is counted by the record itself.
            is_own_mistake = failure is None or failure.shown in {"400", "413", "422"}
            if not is_own_mistake and provider != met[name].row["gateway"]:
                wanted[provider, get_model(provider, met[name].number)] += 1
    with create_engine_for(session_database_url).connect() as connection:
        found = select_recent_quality(connection, timedelta(minutes=30))
    assert {row[:2]: row.requests for row in found.given_up if row[:2] in models} == wanted
    assert set(wanted.values()) == {1} and len(wanted) > 100


def test_the_page_on_routing_has_every_failure() -> None:
    rows = [
        f"| {failure.name} | `{failure.shown}` | {'no' if failure.ends else 'yes'} | {failure.status} |"
        for failure in FAILURES
    ]
    page = (ROOT / "docs" / "routing.md").read_text()
    assert [row for row in rows if row not in page] == []
