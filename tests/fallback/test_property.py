"""Whatever fails, the client gets one whole answer or one true error, and one record matches the providers' counts."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fallback.failures import CHARGED, CUT_LATER, FAILURES, Failure
from tests.fallback.providers import PROVIDERS, Providers, get_cost, get_model, serve
from tests.support.chat import Seen, request_head
from tests.support.limited_keys import get_charges, make_limited_key
from tests.support.scripts import Exchange, Script, pause
from tests.support.soak import soak_count, soak_only
from tests.support.waiting import wait_until

# Behaviour of a target other than a failure: it serves the whole answer, or a part of it.
SERVES, CUTS = "serves", "cuts"

# Without refusals of a provider's account or key, because a few of them would affect all requests.
_RANDOM = [failure for failure in FAILURES if not failure.blames_account]

# Fireworks sends longer responses as streams only, which the gateway collects.
_LONG_TOKENS = 5_000

# Failures after which the provider may have generated and billed an answer.
_BILLED_UNSEEN = (
    "upstream_connection_lost", "upstream_cut", "upstream_first_byte_timeout", "upstream_idle_timeout", "408", "504",
)  # fmt: skip

PATH = "/v1/chat/completions"


class Deed(NamedTuple):
    """The behaviour of a target, and the pause before it in seconds."""

    provider: str
    does: Failure | str
    pause_s: float

    def act(self, exchange: Exchange) -> None:
        """Responds as the request asks for it; a step of a script."""
        assert exchange.seen is not None
        is_stream = exchange.seen.json.get("stream") is True
        if isinstance(self.does, Failure):
            script = self.does.get_script(is_stream=is_stream)
        else:
            script = CUT_LATER if self.does == CUTS else serve(is_stream=is_stream)
        for step in (pause(self.pause_s), *script):
            step(exchange)


class Plan(NamedTuple):
    """A request.

    Attributes:
        deeds: the behaviour of its targets, in order.
        is_stream: whether it asks for a stream.
        is_long: whether it asks for a long response.
        is_limited: whether its key has a budget, which it does not exceed.
        leaves: whether its client disconnects once a provider was asked.
    """

    deeds: tuple[Deed, ...]
    is_stream: bool
    is_long: bool
    is_limited: bool
    leaves: bool

    def find_expected(self) -> list[Deed]:
        """Returns the targets that must be tried."""
        tried: list[Deed] = []
        for deed in self.deeds:
            tried.append(deed)
            if not isinstance(deed.does, Failure) or deed.does.ends:
                break
        return tried


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Makes requests."""
    is_stream, is_long = draw(st.sampled_from([(False, False), (False, True), (True, False)]))
    deeds = []
    for provider in draw(st.permutations(PROVIDERS))[: draw(st.integers(1, 3))]:
        is_collected = is_long and provider == "fireworks"
        other = "streamed" if is_stream else "whole"
        possible: list[Failure | str] = [SERVES] * 6
        possible += [each for each in _RANDOM if each.only is None or (each.only == other and not is_collected)]
        possible += [CHARGED] * 4 * is_collected + [CUTS] * is_stream
        deeds.append(Deed(provider, draw(st.sampled_from(possible)), draw(st.sampled_from([0.0, 0.0, 0.05]))))
    return Plan(tuple(deeds), is_stream, is_long, draw(st.booleans()), draw(st.integers(0, 4)) == 0)


@soak_only("fallback/test_failures.py::test_the_client_gets_one_whole_answer_or_one_true_error")
@settings(
    max_examples=soak_count(100),
    # No shrinking, because runs are not reproducible, and each try costs the waits of its requests.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(chosen=st.lists(plans(), min_size=8, max_size=16))
def test_requests_end_whole_or_with_one_true_error_and_records_add_up(providers: Providers, chosen: list[Plan]) -> None:
    numbers = [providers.take_number() for _ in chosen]
    key = make_limited_key(providers.database_url, ("usd", "1000"))
    with ThreadPoolExecutor(len(chosen)) as pool:
        seen = list(pool.map(lambda pair: _ask(providers, key, *pair), zip(numbers, chosen, strict=True)))
    models = [get_model(plan.deeds[0].provider, number) for plan, number in zip(chosen, numbers, strict=True)]
    rows = providers.wait_for_rows("model_requested", models)
    for plan, number, response, model in zip(chosen, numbers, seen, models, strict=True):
        called = [provider for provider, _ in providers.get_calls(number)]
        if response is not None:
            _check_response(plan, response, rows[model])
            assert called == [deed.provider for deed in plan.find_expected()]
            assert rows[model]["status"] == response.status
        _check_record(plan, rows[model], called)
        _check_charge(plan, rows[model])
    charged = sum(row["charged_usd"] or 0 for row in rows.values())
    assert sum(get_charges(providers.database_url, key).get("usd", (0, 0, 0))[:3]) == charged


def _ask(providers: Providers, limited_key: str, number: int, plan: Plan) -> Seen | None:
    """Sends a request, and returns the response; None if the client leaves without it."""
    scripts: list[tuple[str, Script]] = [(deed.provider, [deed.act]) for deed in plan.deeds]
    more: dict[str, Any] = {"stream": plan.is_stream} | ({"max_tokens": _LONG_TOKENS} if plan.is_long else {})
    key = limited_key if plan.is_limited else providers.gateway.key
    if not plan.leaves:
        return providers.ask(number, scripts, PATH, key=key, **more)
    content = providers.prepare(number, scripts, PATH, **more)
    connection = http.client.HTTPConnection("127.0.0.1", providers.gateway.port)
    connection.connect()
    head = request_head(providers.gateway, len(content)).replace(providers.gateway.key.encode(), key.encode())
    connection.sock.sendall(head + content)
    wait_until(lambda: providers.get_calls(number), what="a provider to be asked")
    connection.close()
    return None


def _check_response(plan: Plan, seen: Seen, row: dict[str, Any]) -> None:
    last = plan.find_expected()[-1]
    if last.does == SERVES:
        assert (seen.status, seen.cut, seen.error) == (200, False, {})
        assert seen.body.count(b"[DONE]") == plan.is_stream
        assert (row["outcome"], row["gateway"]) == ("ok", last.provider)
        return
    # The request failed: its stream was cut after it had begun, or the client got a target's error in its place.
    assert seen.cut is (last.does == CUTS) and b"[DONE]" not in seen.body
    assert seen.error.keys() == {"message", "type", "param", "code"}
    assert row["outcome"] == ("upstream_cut" if seen.cut else row["outcome"]) != "ok"
    assert (row["error_type"], row["error_code"]) == (seen.error["type"], seen.error["code"])
    if not seen.cut:
        failures = {deed.provider: deed.does for deed in plan.find_expected()}
        told = failures[row["gateway"]]
        assert isinstance(told, Failure) and seen.status == told.status


def _check_record(plan: Plan, row: dict[str, Any], called: Sequence[str]) -> None:
    attempts = row["attempts"]
    tried = [attempt["provider"] for attempt in attempts] or called[:1]
    if plan.leaves:  # The last provider may not have read its request.
        assert called == tried[: len(called)] and len(tried) - len(called) in (0, 1)
    else:
        assert tried == called
    _check_errors(row)
    deeds = {deed.provider: deed.does for deed in plan.deeds}
    charged = [get_cost(name) for name in tried if deeds[name] is CHARGED]
    if row["outcome"] == "ok":
        charged.append(get_cost(row["gateway"]))
        assert (row["prompt_tokens"], row["completion_tokens"]) == (11, 3)
        assert row["cost_kind"] == "exact"
    if row["outcome"] == "ok" or (charged and not plan.leaves and row["outcome"] != "upstream_cut"):
        assert row["cost_usd"] == sum(charged)
    for attempt in attempts:
        does = deeds[attempt["provider"]]
        if does is CHARGED and attempt["cost_usd"] is not None:
            assert (attempt["tokens"], Decimal(attempt["cost_usd"])) == (14, get_cost(attempt["provider"]))
        elif isinstance(does, Failure) and does is not CHARGED:
            assert (attempt["tokens"], attempt["cost_usd"]) == (None, None)


def _check_errors(row: dict[str, Any]) -> None:
    """Checks that each attempt that did not serve the request has an error, the last one the error that ended it."""
    *before, last = row["attempts"] or [{"error": None}]
    assert all(attempt["error"] for attempt in before)
    if row["attempts"]:
        assert bool(last["error"]) is (row["outcome"] != "ok")
        if row["outcome"] == "client_gone" or (last["error"] and row["status"] == 200):
            assert last["error"] == (row["error_code"] or row["error_type"])


def _check_charge(plan: Plan, row: dict[str, Any]) -> None:
    """Checks that the budget was charged the cost of the request, and more if the cost of an attempt is unknown."""
    if not plan.is_limited:
        assert row["charged_usd"] is None
        return
    cost, charged = row["cost_usd"] or Decimal(0), row["charged_usd"]
    assert charged >= cost
    deeds = {deed.provider: deed.does for deed in plan.deeds}
    met = [deeds[attempt["provider"]] for attempt in row["attempts"] if attempt["error"]]
    unknown = [does for does in met if does is not CHARGED]  # CHARGED reports its cost.
    if any(isinstance(does, Failure) and does.shown in _BILLED_UNSEEN for does in unknown):
        assert charged > cost, (row["outcome"], row["attempts"], row["error_code"])
    elif row["outcome"] == "ok" and all(isinstance(does, Failure) and does.shown.isdigit() for does in unknown):
        assert charged == cost
