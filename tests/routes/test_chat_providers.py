"""Chat through each of the four providers of the sandbox, named in the request and found by the model."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.support.chat import post_chat, wait_for_row
from tests.support.gateway import Gateway

PROVIDERS = ["fireworks", "featherless", "deepinfra", "chutes"]


@pytest.fixture(scope="module")
def models(gateway_of_four: Gateway) -> dict[str, str]:
    """A chat model of each provider that no other provider lists."""
    return {provider: _model_of(gateway_of_four, provider) for provider in PROVIDERS}


def _get(gateway: Gateway, path: str) -> dict[str, Any]:
    with urlopen(gateway.url + path, timeout=30) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def _model_of(gateway: Gateway, provider: str) -> str:
    """Returns a chat model that only this provider lists; looking up a model of several providers by id is a 400."""
    # Featherless does not mark chat models: its entries say null, so the name must tell.
    search = "&search=instruct" if provider == "featherless" else ""
    entries = _get(gateway, f"/api/catalog/models?gateway={provider}&limit=100{search}")["data"]
    for entry in entries:
        model: str = entry["id"]
        if (entry["capabilities"]["chat"] or search) and "sandbox-" not in model:
            with suppress(HTTPError):
                _get(gateway, f"/api/catalog/model/{model}")
                return model
    raise AssertionError(f"{provider} lists no chat model of its own")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_answers_with_its_provider_named_and_without(
    gateway_of_four: Gateway, models: dict[str, str], session_database_url: str, provider: str, stream: bool
) -> None:
    model = models[provider]
    asked: list[dict[str, str]] = [{"provider": provider}, {}]
    answers = [post_chat(gateway_of_four, model, stream=stream, max_completion_tokens=50, **more) for more in asked]
    for seen in answers:
        assert seen.status == 200
        assert seen.headers["x-gateway-provider"] == provider
        row = wait_for_row(session_database_url, seen.request_id)
        assert (row["gateway"], row["outcome"], row["model_served"]) == (provider, "ok", model)
        assert row["usage_source"] == "provider" and row["completion_tokens"] > 0
        # DeepInfra states the exact cost of a request; the others do not.
        stated = (row["prompt_tokens"] * Decimal("0.27") + row["completion_tokens"] * Decimal("1.1")) / 10**6
        assert row["stated_cost_usd"] == (stated if provider == "deepinfra" else None)
        if stream:
            assert seen.body.endswith(b"data: [DONE]\n\n")


def test_the_running_total_of_chutes_is_not_summed(
    gateway_of_four: Gateway, models: dict[str, str], session_database_url: str
) -> None:
    whole, streamed = (
        post_chat(gateway_of_four, models["chutes"], provider="chutes", stream=stream) for stream in (False, True)
    )
    rows = [wait_for_row(session_database_url, seen.request_id) for seen in (whole, streamed)]
    assert rows[0]["completion_tokens"] == rows[1]["completion_tokens"] > 1


def test_a_model_that_its_named_provider_lacks_is_not_served_by_another(
    gateway_of_four: Gateway, models: dict[str, str]
) -> None:
    seen = post_chat(gateway_of_four, models["deepinfra"], provider="featherless")
    assert seen.status == 404 and seen.error["code"] == "model_not_found"
