"""A request that several providers may serve: the choice of provider, the fallback after a failure, and the record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from tests.faults.scripts import forever
from tests.support.activity_tables import ActivityTables
from tests.support.answers import (
    chat_answer,
    chunk,
    error_event,
    head,
    json_answer,
    sse_stream,
    usage_chunk,
    usage_of,
    whole_stream,
)
from tests.support.catalogs import (
    BASE_PATHS,
    PRICES_PATH,
    fireworks_rows,
    list_answer,
    pages_answer,
    plain_rows,
    price_row,
    provider_environment,
    root_of,
)
from tests.support.chat import HELLO, Seen, post, post_chat, request, wait_for_row
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.limited_keys import make_limited_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, Step, close, hang, reset, send
from tests.support.waiting import wait_until

# USD per million tokens: DeepInfra is the cheapest, Chutes costs twice and Fireworks four times as much.
PRICES = {"deepinfra": 1.0, "chutes": 2.0, "fireworks": 4.0}
SLUGS = [f"qwen-quokka-{number}b" for number in range(1, 61)]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
DOWN = json_answer({"error": {"message": "The model is overloaded."}}, 503)


def deepinfra_rows() -> list[dict[str, Any]]:
    pricing = {"input_tokens": PRICES["deepinfra"], "output_tokens": PRICES["deepinfra"]}
    metadata = {"tags": ["chat"], "pricing": pricing, "context_length": 32_768}
    return [{"id": f"Qwen/{slug.title()}", "object": "model", "metadata": metadata} for slug in SLUGS]


def chutes_rows() -> list[dict[str, Any]]:
    pricing = {"prompt": PRICES["chutes"], "completion": PRICES["chutes"]}
    features = {"supported_sampling_parameters": ["temperature", "seed"], "supported_features": ["tools"]}
    more = {"pricing": pricing, "context_length": 131_072, **features}
    return [{"id": f"Qwen/{slug.title()}", "object": "model", **more} for slug in SLUGS]


class Providers:
    """Four scripted providers behind a gateway, and a separate model for each test.

    Attributes:
        gateway, upstream: shared by the tests of this file.
        model: the Hugging Face id of a model that DeepInfra and Chutes list.
        native: the id of the same model at Fireworks.
    """

    def __init__(self, gateway: Gateway, upstream: ScriptedUpstream, slug: str) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.model = f"Qwen/{slug.title()}"
        self.native = f"accounts/fireworks/models/{slug}"

    def on(self, provider: str, script: Script, path: str = "/chat/completions") -> None:
        """Makes a provider respond with a script."""
        self.upstream.on_path(BASE_PATHS[provider] + path, script)

    def post(self, *, headers: dict[str, str] | None = None, **body: Any) -> Seen:
        """Sends a chat request."""
        content = json.dumps({"messages": HELLO, **body}).encode()
        return post(self.gateway, content, headers=headers or {})

    def body(self) -> dict[str, Any]:
        """Returns the body that was sent to a provider last."""
        body: dict[str, Any] = json.loads(self.upstream.calls[-1].body)
        return body

    def asked(self) -> list[str]:
        """Returns the providers that were sent a request, in order."""
        names = {path: name for name, path in BASE_PATHS.items()}
        return [next(names[path] for path in names if seen.path.startswith(path)) for seen in self.upstream.calls]


@pytest.fixture(scope="module")
def routed_gateway(
    gateways: Gateways, shared_upstream: ScriptedUpstream, session_database_url: str
) -> Iterator[Gateway]:
    """A gateway of one worker in front of four scripted providers."""
    script_lists(shared_upstream)
    settings = provider_environment(root_of(shared_upstream)) | {
        "FALLBACK_AFTER": "0.4",
        "UPSTREAM_CONNECT_TIMEOUT": "1",
        "UPSTREAM_FIRST_BYTE_TIMEOUT": "5",
    }
    with gateways.running(session_database_url, settings) as gateway:
        url = f"{gateway.url}/api/catalog/model/Qwen/{SLUGS[0].title()}/endpoints?gateway=deepinfra"

        def count() -> int:
            seen = request("GET", url, headers=gateway.headers)
            return len(seen.json["data"]["endpoints"]) if seen.status == 200 else 0

        wait_until(lambda: count() == 3, what="the lists and the equivalents")
        yield gateway


def script_lists(upstream: ScriptedUpstream) -> None:
    lists: dict[str, Script] = {
        "fireworks": list_answer(fireworks_rows(*SLUGS)),
        "featherless": pages_answer([plain_rows("zeta/Lynx")]),
        "deepinfra": list_answer(deepinfra_rows()),
        "chutes": list_answer(chutes_rows()),
    }
    for name, script in lists.items():
        upstream.on_path(BASE_PATHS[name] + "/models", script)
    amount = str(PRICES["fireworks"])
    prices = [price_row(f"accounts/fireworks/models/{slug}", amount, None, amount) for slug in SLUGS]
    upstream.on_path(PRICES_PATH, list_answer(prices))


_slugs = iter(SLUGS)


@pytest.fixture
def providers(routed_gateway: Gateway, upstream: ScriptedUpstream) -> Providers:
    script_lists(upstream)
    upstream.queues_lists = False
    return Providers(routed_gateway, upstream, next(_slugs))


def test_an_id_that_several_providers_list_goes_to_the_cheapest(providers: Providers) -> None:
    seen = providers.post(model=providers.model)
    assert seen.status == 200 and providers.asked() == ["deepinfra"]
    assert seen.headers["x-gateway-provider"] == "deepinfra" and "x-gateway-attempts" not in seen.headers
    assert not {"models", "provider"} & set(providers.body())


@pytest.mark.parametrize("stream", [False, True])
def test_another_provider_follows_a_failure_and_both_are_on_the_record(
    providers: Providers, session_database_url: str, stream: bool
) -> None:
    providers.on("deepinfra", DOWN)
    providers.on("chutes", sse_stream(whole_stream("Hello", "there")) if stream else chat_answer("Hello there"))
    seen = providers.post(model=providers.model, stream=stream)
    assert seen.status == 200 and b"there" in seen.body and not seen.cut
    assert providers.asked() == ["deepinfra", "chutes"]
    assert seen.headers["x-gateway-attempts"] == "deepinfra=503, chutes=200"
    assert seen.headers["x-gateway-provider"] == "chutes"
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["gateway"], row["outcome"], row["status"], row["model_requested"]) == (
        "chutes",
        "ok",
        200,
        providers.model,
    )
    failed, served = row["attempts"]
    assert {name: failed[name] for name in ("provider", "model", "status", "tokens", "cost_usd")} == {
        "provider": "deepinfra",
        "model": providers.model,
        "status": 503,
        "tokens": None,
        "cost_usd": None,
    }
    assert failed["error"] and failed["ms"] >= 0
    tokens = row["prompt_tokens"] + row["completion_tokens"]
    assert (served["provider"], served["status"], served["error"], served["tokens"]) == ("chutes", 200, None, tokens)
    assert Decimal(served["cost_usd"]) == row["cost_usd"] == Decimal(str(PRICES["chutes"])) * tokens / 10**6


@pytest.mark.parametrize(
    ("budget", "failure", "expected"),
    [
        # A request may cost 0.0022 USD at DeepInfra and 0.0044 USD at Chutes.
        ("0.003", DOWN, ["chutes=insufficient_quota", "deepinfra=503"]),
        ("0.0055", [close()], ["deepinfra=upstream_connection_lost", "chutes=budget_reserved"]),
    ],
)
def test_a_target_for_which_a_budget_has_no_room_is_named(
    providers: Providers, session_database_url: str, budget: str, failure: Script, expected: list[str]
) -> None:
    key = make_limited_key(session_database_url, ("usd", budget))
    providers.on("deepinfra", [*failure, close()])
    content = json.dumps({"model": providers.model, "messages": HELLO, "max_tokens": 1_000}).encode()
    seen = post(providers.gateway, content, key=key)
    assert set(providers.asked()) == {"deepinfra"} and seen.status in (502, 503)
    assert list(dict.fromkeys(seen.headers["x-gateway-attempts"].split(", "))) == expected
    attempts = wait_for_row(session_database_url, seen.request_id)["attempts"]
    (skipped,) = [attempt for attempt in attempts if attempt["provider"] == "chutes"]
    assert f"chutes={skipped['error']}" in expected and skipped["status"] is None and skipped["ms"] is None


@pytest.mark.parametrize("how", ["the client leaves", "the stream is cut"])
def test_an_attempt_that_ended_later_has_its_error_on_the_record(
    providers: Providers, session_database_url: str, how: str
) -> None:
    providers.on("deepinfra", DOWN)
    if how == "the stream is cut":
        providers.on("chutes", sse_stream([chunk("one"), chunk("two")], ending="fin"))
        seen = providers.post(model=providers.model, stream=True)
        assert seen.cut and seen.headers["x-gateway-attempts"] == "deepinfra=503, chutes=200"
    else:
        providers.on("chutes", [hang()])
        address = f"{providers.gateway.url}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {providers.gateway.key}", "x-request-id": providers.model}
        with pytest.raises(requests.Timeout):
            requests.post(address, headers=headers, json={"model": providers.model, "messages": HELLO}, timeout=1.0)
        assert providers.asked() == ["deepinfra", "chutes"]
    find = ActivityTables(session_database_url).select
    query = f"SELECT * FROM activity WHERE model_requested = '{providers.model}'"
    row = wait_until(lambda: find(query), what="the record")[0]._mapping
    expected = (200, "upstream_cut") if how == "the stream is cut" else (None, "client_gone")
    failed, last = row["attempts"]
    assert failed["status"] == 503 and (last["provider"], last["status"], last["error"]) == ("chutes", *expected)
    assert last["ms"] > 0 and row["outcome"] == expected[1]


@pytest.mark.parametrize("more", [{"provider": "deepinfra"}, {}])
def test_a_name_of_one_provider_never_goes_to_another(providers: Providers, more: dict[str, Any]) -> None:
    name = "deepinfra" if more else "fireworks"
    providers.on(name, json_answer({"error": {"message": "No credit."}}, 402))
    seen = providers.post(model=providers.model if more else providers.native, **more)
    assert seen.status == 503 and providers.asked() == [name]


def test_the_names_in_models_follow_each_other(providers: Providers) -> None:
    providers.on("fireworks", json_answer({"error": {"message": "Model not found"}}, 404))
    seen = providers.post(model=providers.native, models=["nobody/has-this", "zeta/Lynx"])
    assert seen.status == 200 and providers.asked() == ["fireworks", "featherless"]
    expected = "nobody/has-this=model_not_found, fireworks=404, featherless=200"
    assert seen.headers["x-gateway-attempts"] == expected
    only = providers.post(models=[providers.native, "zeta/Lynx"])
    assert only.status == 200 and only.headers["x-gateway-provider"] == "featherless"


def test_a_provider_object_orders_and_bounds_the_choice(providers: Providers) -> None:
    for provider in BASE_PATHS:
        providers.on(provider, DOWN)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["deepinfra", "chutes", "fireworks"]),
        ({"order": ["fireworks"]}, ["fireworks", "deepinfra", "chutes"]),
        ({"order": ["Chutes", "fireworks"], "allow_fallbacks": False}, ["chutes", "fireworks"]),
        ({"only": ["fireworks", "chutes"]}, ["chutes", "fireworks"]),
        ({"ignore": ["deepinfra"]}, ["chutes", "fireworks"]),
        ({"max_price": {"prompt": 2, "completion": 2.0}}, ["deepinfra", "chutes"]),
        ({"require_parameters": True}, ["chutes", "fireworks"]),
    ]
    for choice, expected in cases:
        model = next(_slugs).title()
        providers.upstream.requests.clear()
        seen = providers.post(model=f"Qwen/{model}", provider=choice, tools=TOOLS)
        assert seen.status == 503, seen.body
        # The last one is tried again while tries are left.
        assert list(dict.fromkeys(providers.asked())) == expected, choice
    single = providers.post(model=f"Qwen/{next(_slugs).title()}", provider={"allow_fallbacks": False})
    assert single.status == 503 and set(providers.asked()[-1:]) == {"deepinfra"}


@pytest.mark.parametrize(
    ("choice", "param", "code"),
    [
        ({"order": ["openai"]}, "provider.order", "unknown_provider"),
        ({"only": ["featherless"]}, "provider", "no_target"),
        ({"max_price": {"prompt": 0.5}}, "provider.max_price", "no_target"),
        ({"orders": []}, "provider.orders", "unknown_parameter"),
    ],
)
def test_a_choice_that_nobody_fits_is_refused(
    providers: Providers, choice: dict[str, Any], param: str, code: str
) -> None:
    seen = providers.post(model=providers.model, provider=choice)
    assert (seen.status, seen.error["param"], seen.error["code"]) == (400, param, code)
    assert providers.asked() == []


def test_suffixes_are_removed(providers: Providers) -> None:
    for suffix in (":floor", ":nitro"):
        assert providers.post(model=providers.model + suffix).status == 200
        assert providers.body()["model"] == providers.model
    assert providers.asked()[0] == "deepinfra"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_mistake_of_the_caller_goes_to_nobody_else(providers: Providers, status: int) -> None:
    providers.on("deepinfra", json_answer({"error": {"message": "No such field."}}, status))
    seen = providers.post(model=providers.model)
    assert seen.status == status and providers.asked() == ["deepinfra"]


def test_a_prompt_that_is_too_long_goes_to_a_larger_model_that_the_caller_named(providers: Providers) -> None:
    message = "This model's maximum context length is 32768 tokens. However, you requested 40000 tokens."
    providers.on("deepinfra", json_answer({"error": {"message": message}}, 400))
    assert providers.post(model=providers.model, provider={}).status == 400
    assert providers.asked() == ["deepinfra"], "the same model elsewhere was not named"
    seen = providers.post(
        model=providers.model, models=["zeta/Lynx", providers.native], provider={"only": ["deepinfra"]}
    )
    assert seen.status == 400
    seen = providers.post(model=f"deepinfra/{providers.model}", models=["zeta/Lynx", providers.native])
    assert seen.status == 200, "its window is not known, so it is left out; the last one's is larger"
    assert seen.headers["x-gateway-attempts"] == "deepinfra=400, fireworks=200"


@pytest.mark.parametrize("stream", [False, True])
def test_a_silent_provider_is_given_up(providers: Providers, stream: bool) -> None:
    answer = sse_stream(whole_stream("Hi"))
    providers.on("deepinfra", [hang()])
    providers.on("chutes", answer)
    began_s = time.monotonic()
    seen = providers.post(model=providers.model, stream=stream)
    assert seen.status == 200 and time.monotonic() - began_s < 5
    assert seen.headers["x-gateway-attempts"] == "deepinfra=upstream_first_byte_timeout, chutes=200"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sent", [hang(), forever(b": ping\n\n", 0.05), forever(b"event: ping\ndata: {}\n\n", 0.05)])
def test_a_silence_after_the_head_counts_too(providers: Providers, sent: Step, stream: bool) -> None:
    providers.on("deepinfra", [send(head(200, {"content-type": "text/event-stream"})), sent])
    providers.on("chutes", sse_stream(whole_stream("Hi")))
    began_s = time.monotonic()
    seen = providers.post(model=providers.model, stream=stream)
    assert seen.status == 200 and b"Hi" in seen.body and b"ping" not in seen.body and not seen.cut
    assert seen.headers["x-gateway-attempts"] == "deepinfra=upstream_first_byte_timeout, chutes=200"
    assert time.monotonic() - began_s < 5


def test_another_target_follows_as_long_as_the_client_has_nothing(
    providers: Providers, session_database_url: str
) -> None:
    providers.on("deepinfra", sse_stream([usage_chunk()], ending="fin"))
    providers.on("chutes", sse_stream(whole_stream("Hi")))
    seen = providers.post(model=providers.model, stream=True)
    assert seen.status == 200 and b"Hi" in seen.body and not seen.cut
    assert seen.headers["x-gateway-attempts"] == "deepinfra=upstream_cut, chutes=200"
    failed, served = wait_for_row(session_database_url, seen.request_id)["attempts"]
    assert failed["tokens"] and served["tokens"]


def test_several_choices_are_not_asked_for_as_a_stream(providers: Providers) -> None:
    choices = [{"index": i, "message": {"role": "assistant", "content": "Ho"}, "finish_reason": "stop"} for i in (0, 1)]
    providers.on("deepinfra", json_answer({"object": "chat.completion", "choices": choices, "usage": usage_of(11, 3)}))
    seen = providers.post(model=providers.model, n=2)
    assert seen.status == 200 and b"Ho" in seen.body and not providers.body().get("stream")
    providers.on("deepinfra", sse_stream(whole_stream("Hi")))
    assert providers.post(model=providers.model, n=1).status == 200 and providers.body()["stream"] is True


def test_an_error_in_place_of_the_first_event_goes_to_the_next(providers: Providers) -> None:
    providers.on("deepinfra", sse_stream([error_event()]))
    providers.on("chutes", sse_stream(whole_stream("Hi")))
    seen = providers.post(model=providers.model, stream=True)
    assert seen.status == 200 and b"Hi" in seen.body and b"overloaded" not in seen.body
    assert seen.headers["x-gateway-attempts"].endswith(", chutes=200")


def test_if_all_fail_the_client_gets_the_error_that_a_retry_can_help(
    providers: Providers, session_database_url: str
) -> None:
    providers.on("deepinfra", json_answer({"error": {"message": "slow down"}}, 429, {"retry-after": "7"}))
    providers.on("chutes", json_answer({"error": {"message": "bad key"}}, 401))
    seen = providers.post(model=providers.model)
    assert (seen.status, seen.headers["retry-after"]) == (429, "7")
    assert seen.headers["x-gateway-attempts"] == "deepinfra=429, chutes=401"
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["gateway"], row["status"], row["upstream_status"]) == ("deepinfra", 429, 429)
    assert [each["provider"] for each in row["attempts"]] == ["deepinfra", "chutes"]


def test_what_a_failed_attempt_is_known_to_have_cost_is_added(providers: Providers, session_database_url: str) -> None:
    providers.on("deepinfra", sse_stream([chunk(usage=usage_of(10, 5)), error_event()]))
    providers.on("chutes", chat_answer("Hi", usage=usage_of(20, 30)))
    seen = providers.post(model=providers.model)
    row = wait_for_row(session_database_url, seen.request_id)
    assert row["prompt_tokens"] + row["completion_tokens"] == 50
    assert row["cost_usd"] == sum(Decimal(each["cost_usd"] or 0) for each in row["attempts"])


def test_a_target_that_keeps_failing_is_tried_less(providers: Providers) -> None:
    providers.on("deepinfra", [reset()])
    for _ in range(8):
        assert providers.post(model=providers.model).status == 200
    asked = providers.asked()
    assert asked.count("chutes") == 8 and 3 <= asked.count("deepinfra") < 8
    assert "target_avoided" in providers.gateway.log()


def make_alias(providers: Providers, name: str, **body: Any) -> None:
    """Makes an alias, and waits until requests know it."""
    headers = {"Authorization": f"Bearer {providers.gateway.key}"}
    made = request("POST", f"{providers.gateway.url}/api/aliases", headers=headers, json={"name": name, **body})
    assert made.status == 201, made.body
    url = f"{providers.gateway.url}/v1/models/{name}"
    wait_until(lambda: request("GET", url, headers=headers).status == 200, what="the alias")


def test_an_alias_sets_targets_and_fields(providers: Providers, session_database_url: str) -> None:
    targets = [f"chutes/{providers.model}", providers.native, f"deepinfra/{providers.model}"]
    make_alias(providers, "own/name", targets=targets, overrides={"temperature": 0.5, "stop": ["é"]})
    providers.on("chutes", DOWN)
    providers.on("fireworks", DOWN)
    seen = providers.post(model="Own/Name", temperature=1.0)
    assert seen.status == 200 and seen.headers["x-gateway-provider"] == "deepinfra"
    assert seen.headers["x-gateway-attempts"] == "chutes=503, fireworks=503, deepinfra=200"
    assert seen.headers["x-gateway-applied-params"].startswith("temperature=0.5, stop=[")
    assert (providers.body()["temperature"], providers.body()["stop"]) == (0.5, ["é"])
    cheapest = providers.post(model="own/name:floor")
    assert cheapest.headers["x-gateway-provider"] == "deepinfra" and "x-gateway-attempts" not in cheapest.headers
    named = providers.post(model="own/name", provider="deepinfra")
    assert named.status == 200 and "x-gateway-attempts" not in named.headers
    key = make_limited_key(session_database_url, models=["featherless/*"])
    content = json.dumps({"model": "own/name", "messages": HELLO}).encode()
    refused = post(providers.gateway, content, key=key)
    assert refused.status == 403 and "'own/name'" in refused.error["message"] and "Qwen" not in refused.error["message"]
    elsewhere = providers.post(model="own/name", provider="featherless")
    assert (elsewhere.status, elsewhere.error["code"]) == (400, "no_target")


@pytest.mark.parametrize(
    ("own", "other"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
)
def test_an_alias_bounds_the_output_whatever_the_caller_calls_it(providers: Providers, own: str, other: str) -> None:
    make_alias(providers, f"short-{own}", targets=[f"deepinfra/{providers.model}"], overrides={own: 20})
    seen = providers.post(model=f"short-{own}", **{other: 9_000})
    assert seen.status == 200
    sent = providers.body()
    assert [sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent] == [20]
    assert seen.headers["x-gateway-applied-params"] == f"{own}=20, {other}->{own}"


def test_a_conversation_stays_at_one_target(providers: Providers) -> None:
    targets = [
        {"name": f"deepinfra/{providers.model}", "weight": 1},
        {"name": f"chutes/{providers.model}", "weight": 1},
    ]
    make_alias(providers, "shared", targets=targets)

    def ask(session: str, header: str | None = None) -> str:
        body = {} if header else {"prompt_cache_key": session}
        seen = providers.post(model="shared", headers={header: session} if header else {}, **body)
        assert seen.status == 200
        return seen.headers["x-gateway-provider"]

    first = {session: ask(session) for session in map(str, range(16))}
    assert set(first.values()) == {"deepinfra", "chutes"}
    for header in ("x-session-affinity", "X-Claude-Code-Session-Id"):
        assert {session: ask(session, header) for session in first} == first
    assert {ask("", "x-other") for _ in range(24)} == {"deepinfra", "chutes"}, "without a conversation, chance decides"
    providers.on("deepinfra", DOWN)
    assert {ask(session) for session in first} == {"chutes"}


def test_other_endpoints_fall_back_too(providers: Providers) -> None:
    providers.on("deepinfra", DOWN)
    providers.on("chutes", chat_answer("Hello"))
    body = {
        "model": providers.model,
        "max_tokens": 20,
        "messages": HELLO,
        "provider": {"sort": "price"},
        "models": ["zeta/Lynx"],
    }
    headers = {"Authorization": f"Bearer {providers.gateway.key}"}
    for path, more in (("/v1/messages", {}), ("/v1/responses", {"input": "Hello"})):
        sent = {
            name: value for name, value in (body | more).items() if not (more and name in ("messages", "max_tokens"))
        }
        seen = request("POST", providers.gateway.url + path, headers=headers, json=sent)
        assert seen.status == 200 and b"Hello" in seen.body, seen.body
        assert "models" not in seen.headers.get("x-gateway-dropped-params", "")
        assert not {"models", "provider"} & set(providers.body())


def test_plain_requests_have_no_attempts(providers: Providers, session_database_url: str) -> None:
    seen = post_chat(providers.gateway, providers.native)
    assert seen.status == 200 and "x-gateway-attempts" not in seen.headers
    assert wait_for_row(session_database_url, seen.request_id)["attempts"] in (None, [])
