"""A dry run predicts the routing of a request, and sends, reserves and records nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.services.inference import DryRun
from tests.fallback.providers import CONTEXTS, PRICES, PROMPTS, PROVIDERS, Providers, get_model, serve
from tests.faults.scripts import answer
from tests.support.catalogs import BASE_PATHS
from tests.support.chat import HELLO, Seen, request, rows_where
from tests.support.limited_keys import get_charges, make_limited_key

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
OVERLOADED = answer({"error": {"message": "Not now.", "type": "invalid_request_error"}}, 503)

SESSION = json.loads((Path(__file__).parents[1] / "routes/agent_session.json").read_text())["request"]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
TOOLS = [{"type": "web_search"}, {"type": "function", "name": "weather", "parameters": SCHEMA}]
# Requests with fields that some provider gets dropped, renamed, replaced or translated: path and body.
BODIES: list[tuple[str, dict[str, Any]]] = [
    *((path, dict(body)) for path, body in PROMPTS.items()),
    (CHAT, {"messages": HELLO, "max_tokens": 7, "n": 2, "store": True, "logprobs": None, "service_tier": "auto"}),
    (
        CHAT,
        {
            "messages": [
                {"role": "developer", "content": "Be brief.", "cache_control": {"type": "ephemeral"}},
                {"role": "user", "content": [{"type": "text", "text": "Weather? \u00fc \ud83d\ude00"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            ],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}],
            "max_completion_tokens": 9,
            "top_k": 40,
            "nonsense": {"a": [1, 2.5, "x"]},
        },
    ),
    (
        MESSAGES,
        {name: value for name, value in SESSION.items() if name not in ("model", "stream")} | {"messages": HELLO},
    ),
    (RESPONSES, {"input": HELLO, "instructions": "Be brief.", "tools": TOOLS, "store": True}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3, "user": "ann"}),
    ("/v1/rerank", {"query": "tea", "documents": ["hot", {"text": "cold"}], "top_n": 1}),
    ("/v2/rerank", {"query": "tea", "documents": ["hot", "cold"], "return_documents": True}),
]
NAMES = [f"{path}-{number}" for number, (path, _) in enumerate(BODIES)]


def ask_dry(providers: Providers, path: str, content: bytes, key: str | None = None, word: str = "1") -> Seen:
    headers = {"Authorization": f"Bearer {key or providers.gateway.key}", "Content-Type": "application/json"}
    return request("POST", providers.gateway.url + path, headers=headers | {"x-gateway-dry-run": word}, data=content)


def ask(providers: Providers, path: str, content: bytes, key: str) -> Seen:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return request("POST", providers.gateway.url + path, headers=headers, data=content)


@pytest.fixture(scope="module")
def key(providers: Providers) -> str:
    """A key with a budget that nothing here uses up."""
    return make_limited_key(providers.database_url, ("usd", "50"), ("tokens", "9000000"), tokens_per_minute=9_000_000)


@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize(("path", "body"), BODIES, ids=NAMES)
def test_it_shows_what_the_providers_would_get_in_their_order(
    providers: Providers, key: str, path: str, body: dict[str, Any], is_limited: bool
) -> None:
    used = key if is_limited else providers.gateway.key
    for stream in [False] if "query" in body or path == "/v1/embeddings" else [False, True]:
        number = providers.take_number()
        providers.upstream.default = OVERLOADED
        before = len(providers.upstream.calls)
        more = {"stream": True} if stream else {}
        models = [get_model(name, number) for name in PROVIDERS]
        content = json.dumps({"models": models} | body | more).encode()
        seen = ask_dry(providers, path, content, used)
        assert seen.status == 200 and seen.headers["x-gateway-dry-run"] == "1", seen.body
        assert len(providers.upstream.calls) == before and b"fw_test" not in seen.body
        dry = msgspec.json.decode(seen.body, type=DryRun)
        assert (dry.endpoint, dry.stream, dry.budgets is not None and bool(dry.budgets)) == (path, stream, is_limited)

        real = ask(providers, path, content, used)
        assert real.status in (503, 529), real.body
        calls = providers.upstream.calls[before:]
        assert [bytes(target.body) for target in dry.targets] == [call.body for call in calls]
        for target, call in zip(dry.targets, calls, strict=True):
            name = target.provider
            assert target.model in models and call.path.startswith(BASE_PATHS[name].partition("/v1")[0])
            assert call.path.endswith(target.path) and target.headers.items() <= call.headers.items()
            assert target.context_length in (CONTEXTS[name], None) and not target.fails_fast
            assert target.price is not None and Decimal(target.price.prompt) == Decimal(PRICES[name][0]) / 1_000_000
            assert target.catalog_age_s is not None and target.catalog_age_s >= 0
        assert len(dry.targets) + len(dry.left_out) == len(models) and all(each.error for each in dry.left_out)


@pytest.mark.parametrize("path", PROMPTS)
def test_its_ceiling_is_what_a_budget_holds_and_no_cost_is_above_it(providers: Providers, path: str) -> None:
    key = make_limited_key(providers.database_url, ("usd", "50"), max_output_tokens=40)
    number = providers.take_number()
    content = providers.prepare(number, [("fireworks", serve(is_stream=False, path=path))], path)
    dry = msgspec.json.decode(ask_dry(providers, path, content, key).body, type=DryRun)
    assert get_charges(providers.database_url, key) in ({}, {"usd": (0, 0, 0, 0)})
    (target,), (budget,) = dry.targets, dry.budgets or []
    assert (Decimal(str(budget["remaining"])), budget["unit"], budget["of"]) == (50, "usd", "key")
    seen = ask(providers, path, content, key)
    assert seen.status == 200, seen.body
    row = providers.wait_for_rows("request_id", [seen.request_id])[seen.request_id]
    (call,) = providers.get_calls(number)
    assert bytes(target.body) == call[1].body
    assert target.applied == [part for part in seen.headers.get("x-gateway-applied-params", "").split(", ") if part]
    assert target.dropped == [part for part in seen.headers.get("x-gateway-dropped-params", "").split(", ") if part]
    assert target.ceiling_usd is not None and 0 < row["cost_usd"] <= target.ceiling_usd
    assert target.prompt_tokens_bound is not None and row["prompt_tokens"] <= target.prompt_tokens_bound
    assert target.ceiling_tokens == target.prompt_tokens_bound + (target.output_tokens_bound or 0)


def test_what_would_be_refused_is_refused_alike_and_leaves_no_record(providers: Providers) -> None:
    number = providers.take_number()
    good = providers.prepare(number, [("fireworks", serve(is_stream=False))], CHAT)
    for path, content in ((CHAT, b"{"), (CHAT, b'{"model": "x", "provider": "nobody"}'), (MESSAGES, good)):
        dry, real = ask_dry(providers, path, content), ask(providers, path, content, providers.gateway.key)
        assert dry.status >= 400, (path, dry.body)
        assert (dry.status, dry.error["message"]) == (real.status, real.error["message"])
        assert dry.request_id != real.request_id
    for word in ("yes", "", "true", "1,1"):
        wrong = ask_dry(providers, CHAT, good, word=word)
        assert (wrong.status, wrong.error["param"], providers.get_calls(number)) == (400, "x-gateway-dry-run", [])
    assert ask_dry(providers, CHAT, good, word="0").json["object"] == "chat.completion"
    before = _count_dry_runs(providers)
    ids = [ask_dry(providers, CHAT, good).request_id for _ in range(2)]
    assert _count_dry_runs(providers) == before + 2
    served = ask(providers, CHAT, good, providers.gateway.key).request_id
    providers.wait_for_rows("request_id", [served])  # Rows of the dry runs would have been written by then.
    assert len(providers.get_calls(number)) == 2
    assert all(not rows_where(providers.database_url, "request_id", id) for id in ids)
    report = request("GET", providers.gateway.url + "/api/activity/integrity", headers=providers.gateway.headers).json
    assert report["balanced"], report


def _count_dry_runs(providers: Providers) -> float:
    seen = request("GET", providers.gateway.url + "/metrics", headers=providers.gateway.headers)
    lines = [line for line in seen.body.decode().splitlines() if line.startswith("gateway_dry_runs_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if CHAT in line)
