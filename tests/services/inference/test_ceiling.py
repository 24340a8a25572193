"""The ceiling of a request: never below its possible cost, for each endpoint, form, tier and script."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, GatewayError, PermissionDenied
from app.runtime import get_component
from app.services.endpoints import ENDPOINTS, InferenceBody
from app.services.inference.adaptation import UpstreamRequest, adapt
from app.services.inference.ceiling import make_ceiling, to_units
from app.services.inference.validation import validate_body
from app.services.limits import Budget, Ceiling, Policy, Subject
from app.services.models import cache, get_model_list
from app.services.pricing import Price, Prices, compute_cost
from app.services.providers import PROVIDERS
from app.services.routing import Target
from tests.support.catalogs import FIREWORKS_LIST, PRICES_PATH, catalogs_of, list_answer, provider_environment, root_of
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import examples

BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
FIREWORKS = PROVIDERS["fireworks"]
LISTED, UNLISTED = "accounts/fireworks/models/listed", "accounts/acme/models/unlisted"
CONTEXT = 8_192
STANDARD = Price(Decimal("0.0000005"), Decimal("0.0000015"), Decimal("0.00000025"), "test", None)
# A price with more expensive cached tokens, and with more digits than the unit.
PRIORITY = Price(Decimal("0.0000000000001"), Decimal("0.000003"), Decimal("0.000002"), "test", None)


def policy_for(*units: Any) -> Policy:
    """Returns the limits of a key with a budget in each of these units."""
    budgets = tuple(Budget(at, unit, "5", "day", "UTC", 1, ()) for at, unit in enumerate(units))
    return Policy((Subject("h", "holder", "ann", None, (), None, None, None, None, budgets),), (), None)


ANY = policy_for("usd", "tokens", "requests")


@pytest.fixture(scope="module", autouse=True)
def prices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fireworks lists one model with a context of CONTEXT tokens, and prices of it and of another."""
    rows = [{"id": LISTED, "kind": "HF_BASE_MODEL", "supports_chat": True, "context_length": CONTEXT}]
    with ScriptedUpstream() as upstream, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
        upstream.on_path(FIREWORKS_LIST, list_answer(rows))
        upstream.on_path(PRICES_PATH, list_answer([]))
        journal = {"JOURNAL_DIR": str(tmp_path_factory.mktemp("journal"))}
        with catalogs_of(provider_environment(root_of(upstream), ["fireworks"]) | journal):
            get_model_list(FIREWORKS)
            standard = {(model, "standard"): STANDARD for model in (LISTED, UNLISTED)}
            free = Price(Decimal(0), Decimal(0), None, "test", None)
            input_only = Price(Decimal("0.000001"), None, None, "test", None)
            others = {(LISTED, "priority"): PRIORITY, ("free", "standard"): free, ("input", "standard"): input_only}
            get_component(Prices).set_listed_prices("fireworks", standard | others)
            yield


def request_for(path: str, body: dict[str, Any], model: str = LISTED, provider: str = "fireworks") -> UpstreamRequest:
    """Returns the provider's request for a client's body."""
    endpoint = BY_PATH[path]
    fields: InferenceBody = validate_body({"model": "asked", **body}, endpoint.body)
    translated = None
    if endpoint.translation is not None:
        translated = endpoint.translation.translate_request({"model": "asked", **body}, fields, lambda name: None)
    found = get_model_list(FIREWORKS).get(model)
    target = Target(PROVIDERS[provider], model, context_length=None if found is None else found.context_length)
    return adapt({"model": "asked", **body}, fields, endpoint, target, translated=translated)


def ceiling_of(path: str, model: str = LISTED, policy: Policy = ANY, **body: Any) -> Ceiling:
    return make_ceiling(policy, BY_PATH[path], request_for(path, body, model))


CHAT, COMPLETIONS, EMBEDDINGS, RERANK = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"
HELLO = [{"role": "user", "content": "Hello!"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]


@pytest.mark.parametrize(
    ("path", "body", "outputs"),
    [
        (CHAT, {"messages": HELLO, "max_tokens": 10}, 10),
        (CHAT, {"messages": HELLO, "max_completion_tokens": 10}, 10),
        (CHAT, {"messages": HELLO, "max_tokens": 10, "max_completion_tokens": 20}, 20),
        (CHAT, {"messages": HELLO, "max_tokens": 20, "max_completion_tokens": 10}, 20),
        (CHAT, {"messages": HELLO, "max_tokens": 10, "n": 3}, 30),
        (CHAT, {"messages": HELLO, "max_tokens": 10, "n": 2, "best_of": 5}, 50),
        (CHAT, {"messages": HELLO}, CONTEXT),
        (CHAT, {"messages": HELLO, "n": 2}, 2 * CONTEXT),
        (CHAT, {"messages": HELLO, "max_tokens": 10**6}, CONTEXT),
        (COMPLETIONS, {"prompt": "Hello", "max_tokens": 10}, 10),
        (COMPLETIONS, {"prompt": ["a", "b", "c"], "max_tokens": 10, "n": 2}, 60),
        (COMPLETIONS, {"prompt": [[1, 2], [3]], "max_tokens": 10, "best_of": 4}, 80),
        (COMPLETIONS, {"prompt": "Hello", "max_tokens": 0, "echo": True}, 1),
        (COMPLETIONS, {"prompt": "Hello"}, CONTEXT),
        (EMBEDDINGS, {"input": ["a", "b"]}, 0),
        (RERANK, {"query": "q", "documents": ["a", {"text": "b"}]}, 0),
        ("/v2/rerank", {"query": "q", "documents": ["a"]}, 0),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 10}, 10),
        ("/v1/responses", {"input": "Hello!", "max_output_tokens": 10}, 10),
        ("/v1/responses", {"input": "Hello!"}, CONTEXT),
    ],
)
def test_the_output_is_bounded_as_the_request_says_else_by_the_context(
    path: str, body: dict[str, Any], outputs: int
) -> None:
    request = request_for(path, body)
    ceiling = make_ceiling(ANY, BY_PATH[path], request)
    prompt, *_ = BY_PATH[path].bound_tokens(request.body, len(request.content), CONTEXT)
    assert prompt is not None and ceiling.tokens == prompt + outputs
    # The most expensive case: the provider counts the whole prompt, and none of it as cached.
    cost = compute_cost(STANDARD, prompt, 0, outputs)
    assert ceiling.cost is not None and 0 <= ceiling.cost - cost.scaleb(12) < 1
    said = {"max_tokens", "max_completion_tokens", "max_output_tokens"} & body.keys()
    # The prompt is estimated as in the record, or as a quarter of the bytes, which include tools and schemas.
    estimate = max(request.prompt_tokens_estimate, min(len(request.content) // 4, prompt))
    assert ceiling.rate_tokens == (estimate + outputs if said or not outputs else None)


def test_the_price_is_that_of_the_tier_and_the_dearest_of_cached_and_other_tokens() -> None:
    request = request_for(CHAT, {"messages": HELLO, "max_tokens": 10, "service_tier": "priority"})
    ceiling = make_ceiling(ANY, BY_PATH[CHAT], request)
    assert request.price == PRIORITY and ceiling.tokens is not None
    assert ceiling.cost == (ceiling.tokens - 10) * 2_000_000 + 10 * 3_000_000
    # Tiers that Fireworks bills as standard, and a router's own id.
    for tier in ("auto", "default", "flex", "no-such-tier"):
        flat = ceiling_of(CHAT, messages=HELLO, max_tokens=10, service_tier=tier)
        assert flat.cost is not None and ceiling.cost is not None and flat.cost < ceiling.cost
    with pytest.raises(PermissionDenied) as caught:  # This model has no known price in this tier.
        ceiling_of(CHAT, UNLISTED, messages=HELLO, max_tokens=10, service_tier="priority")
    assert caught.value.code == "model_not_priced" and "PRICE_FILE" in caught.value.message


def test_what_is_no_text_counts_as_the_whole_context() -> None:
    media: list[dict[str, Any]] = [
        {"messages": IMAGE},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]}]},
        {"messages": [{"role": "user", "content": [{"image_url": {"url": "https://example.com/a.png"}}]}]},
        {"messages": HELLO, "chat_template": "{% for i in range(9999) %}word {% endfor %}"},
    ]
    for body in media:
        assert ceiling_of(CHAT, **body, max_tokens=10).tokens == CONTEXT + 10
        with pytest.raises(BadRequest) as caught:
            ceiling_of(CHAT, UNLISTED, **body, max_tokens=10)
        assert caught.value.code == "prompt_not_bounded"
    short = ceiling_of(CHAT, messages=HELLO, max_tokens=10).tokens
    assert short is not None and short < 1_200
    assert ceiling_of(CHAT, messages=[{"role": "user", "content": "x" * 10**6}], max_tokens=10).tokens == CONTEXT + 10
    assert ceiling_of(EMBEDDINGS, input=["x" * 10**5] * 3).tokens == 3 * CONTEXT


def refusal_of(policy: Policy, model: str, path: str = CHAT, **body: Any) -> tuple[str | None, str | None] | None:
    """Returns the code and the param of the error, or None if there is a ceiling."""
    try:
        ceiling_of(path, model, policy, **body)
    except GatewayError as error:
        return error.code, error.param
    return None


def test_only_a_budget_that_needs_to_know_refuses_what_is_not_known() -> None:
    usd, tokens, requests = (policy_for(unit) for unit in ("usd", "tokens", "requests"))
    unpriced = "accounts/acme/models/unpriced"
    bounded = {"messages": HELLO, "max_tokens": 10}
    assert [refusal_of(usd, UNLISTED, **bounded), refusal_of(requests, unpriced, **bounded)] == [None, None]
    assert refusal_of(usd, unpriced, **bounded) == ("model_not_priced", "model")
    assert refusal_of(tokens, unpriced, **bounded) is None
    for policy in (usd, tokens):
        assert refusal_of(policy, UNLISTED, messages=HELLO) == ("max_tokens_required", "max_tokens")
        refused = refusal_of(policy, UNLISTED, "/v1/responses", input="Hello!")
        assert refused == ("max_tokens_required", "max_output_tokens")
    assert refusal_of(requests, UNLISTED, messages=HELLO) is None
    # A price of 0 is not a missing price: its ceiling is 0, even if nothing bounds the tokens.
    free = ceiling_of(CHAT, "free", usd, messages=HELLO)
    assert (free.cost, free.tokens) == (0, None)
    assert refusal_of(tokens, "free", messages=HELLO) == ("max_tokens_required", "max_tokens")
    # A price without an output price belongs to a model that generates nothing.
    assert refusal_of(usd, "input", EMBEDDINGS, input="a") is None
    assert refusal_of(usd, "input", **bounded) == ("model_not_priced", "model")


@given(st.integers(0, 10**12), st.integers(0, 3 * CONTEXT), st.integers(1, 4), st.sampled_from([LISTED, "free"]))
def test_the_max_tokens_that_would_fit_fit_and_one_more_would_not(
    cost_room: int, token_room: int, outputs: int, model: str
) -> None:
    def fits(most: int) -> bool:
        ceiling = ceiling_of(CHAT, model, messages=HELLO, max_tokens=most, n=outputs)
        assert ceiling.cost is not None and ceiling.tokens is not None
        return ceiling.cost <= cost_room and ceiling.tokens <= token_room

    # The digits of max_tokens count in the bytes that bound the prompt: four here, and fewer only make it cheaper.
    # Above 4,096, Fireworks is asked for a stream, which makes the request longer.
    most = ceiling_of(CHAT, model, messages=HELLO, max_tokens=4_096, n=outputs).fits(cost_room, token_room)
    assert most is None or fits(min(most, 4_096))
    assert (most is not None and most >= 4_096) or not fits(max(1_000, (most or 0) + 1))


@given(st.decimals(0, 10**6, places=15) | st.integers(0, 10**6).map(Decimal), st.integers(0, 15))
def test_an_amount_in_usd_is_rounded_up_to_whole_units(amount: Decimal, places: int) -> None:
    text = f"{amount:.{places}f}"
    assert to_units(text) == ceil(Decimal(text).scaleb(12))


# Letters of ten scripts, emoji with joiners, code and controls, each of which real tokenizers split differently.
SCRIPTS = [
    "abcdefghijklmnopqrstuvwxyz ABC.,'", "абвгдежзийклмнопрст ", "αβγδεζηθικλμνξοπ ", "אבגדהוזחטיכלמנ ",
    "ابتثجحخدذرزسشص ",
    "अआइईउऊएऐओऔकखग ", "กขฃคฅฆงจฉชซฌญ", "你好世界的一是不了人我在有他", "あいうえおカキクケコ", "한국어말을씁니다 ",
    "😀👨‍👩‍👧‍👦🏳️‍🌈🇩🇪é̂ﷺ", "{}[]();:=+-*/\\\"'\n\t<>|&_#0123456789", "\x00\x01\x7f\u200b\ufeff𐍈𓀀",
]  # fmt: skip


@pytest.fixture(scope="module")
def counters() -> list[Callable[[str], int]]:
    """Functions that count a text's tokens with two vocabularies of OpenAI's models, which open models' resemble."""
    openai = pytest.importorskip("rs_bpe.bpe").openai
    return [openai.cl100k_base().count, openai.o200k_base().count]


def make_text(chance: random.Random) -> str:
    letters = "".join(chance.sample(SCRIPTS, chance.randint(1, 3)))
    return "".join(chance.choices(letters, k=chance.randint(0, 200)))


def render(request: dict[str, Any]) -> str:
    """Returns the prompt of a request by a chat template like those of open models, with its tools and markers."""
    lines = ["<|im_start|>system\nYou are a helpful assistant.\n# Tools\n\nYou may call one or more functions:\n"]
    lines += [json.dumps(tool, ensure_ascii=False, indent=2) for tool in request.get("tools", [])]
    for message in request["messages"]:
        content = message.get("content") or ""
        texts = [content] if isinstance(content, str) else [part["text"] for part in content]
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
        lines.append(f"<|im_start|>{message['role']}\n{''.join(texts)}{''.join(calls)}<|im_end|>\n")
    lines.append(json.dumps(request.get("response_format", ""), ensure_ascii=False, indent=2))
    return "".join(lines) + "<|im_start|>assistant\n<think>\n"


def make_chat(chance: random.Random) -> dict[str, Any]:
    schema = {"type": "object", "properties": {make_text(chance): {"type": "string", "description": make_text(chance)}}}
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps(make_text(chance))},
    }
    messages: list[dict[str, Any]] = [{"role": "system", "content": make_text(chance)}]
    messages += [{"role": "user", "content": [{"type": "text", "text": make_text(chance)} for _ in range(3)]}]
    messages += [{"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "call_1", "content": make_text(chance)}]
    messages += [{"role": "user", "content": make_text(chance)} for _ in range(chance.randint(0, 20))]
    tool = {"type": "function", "function": {"name": "look", "description": make_text(chance), "parameters": schema}}
    format = {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}
    return {"messages": messages, "tools": [tool] * chance.randint(1, 5), "response_format": format, "max_tokens": 1}


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32))
def test_no_text_of_any_script_has_more_tokens_than_the_ceiling(
    counters: list[Callable[[str], int]], seed: int
) -> None:
    chance = random.Random(seed)
    chat, documents = make_chat(chance), [make_text(chance) or "-" for _ in range(chance.randint(1, 8))]
    query = make_text(chance) or "?"
    for count in counters:
        ceilings = [
            (ceiling_of(CHAT, UNLISTED, **chat), count(render(chat)) + 1),
            (ceiling_of(COMPLETIONS, UNLISTED, prompt=documents, max_tokens=1), sum(map(count, documents)) + 3 * 8),
            (ceiling_of(EMBEDDINGS, UNLISTED, input=documents), sum(map(count, documents)) + 2 * len(documents)),
            (
                ceiling_of(RERANK, UNLISTED, query=query, documents=documents),
                sum(count(f"<Query>: {query}\n<Document>: {each}") for each in documents),
            ),
        ]
        assert all(ceiling.tokens is not None and ceiling.tokens >= used for ceiling, used in ceilings)


def test_the_conversation_of_an_agent_costs_less_than_its_ceiling(counters: list[Callable[[str], int]]) -> None:
    session = json.loads((Path(__file__).parents[2] / "routes/agent_session.json").read_text())
    body = {**session["request"], "messages": session["first"]}
    request = request_for("/v1/messages", body, UNLISTED)
    ceiling = make_ceiling(ANY, BY_PATH["/v1/messages"], request)
    for count in counters:
        assert ceiling.tokens is not None and ceiling.tokens >= count(render(request.body)) > 100
