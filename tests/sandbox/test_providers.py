"""Chats at Featherless, DeepInfra and Chutes: their error bodies and the quirks of their streams."""

from typing import Any

import pytest

from tests.sandbox.client import KEY, Server, join_text

FEATHERLESS, DEEPINFRA, CHUTES = "/featherless/v1", "/deepinfra/v1/openai", "/chutes/v1"
CHUTES_MODEL = "acme-labs/Quokka-V3-TEE"
OTHERS = [FEATHERLESS, DEEPINFRA, CHUTES]


def get_model(server: Server, base: str) -> str:
    """Returns a chat model of a provider's list."""
    return str(server.get(base + "/models").json()["data"][0]["id"])


@pytest.mark.parametrize("base", OTHERS)
def test_a_listed_model_responds_unstreamed_and_streamed(server: Server, base: str) -> None:
    model = get_model(server, base)
    completion = server.chat(model, base, store=True).json()
    assert completion["model"] == model
    events = server.stream(model, base)
    assert join_text(events) == completion["choices"][0]["message"]["content"]
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize("base", OTHERS)
@pytest.mark.parametrize(("key", "model", "status"), [("bad", None, 401), (None, None, 401), (KEY, "no/such", 404)])
def test_an_error_has_the_shape_of_the_provider(
    server: Server, base: str, key: str | None, model: str | None, status: int
) -> None:
    response = server.chat(model or get_model(server, base), base, key=key)
    assert response.status_code == status
    check_shape(base, response.json())


@pytest.mark.parametrize("base", OTHERS)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_every_provider_has_the_models_that_misbehave_unlisted(server: Server, base: str, status: int) -> None:
    response = server.chat(f"sandbox/sandbox-{status}", base)
    assert response.status_code == status
    check_shape(base, response.json())


def check_shape(base: str, body: dict[str, Any]) -> None:
    """Checks that an error body has the keys of the provider at `base`."""
    if base == CHUTES:
        assert set(body) == {"detail"}
    else:
        extra = {"param"} if base == DEEPINFRA else set()
        assert set(body["error"]) == {"message", "type", "code"} | extra


@pytest.mark.parametrize("base", OTHERS)
def test_an_invalid_request_is_a_400_in_the_providers_shape(server: Server, base: str) -> None:
    response = server.chat(get_model(server, base), base, temperature=9)
    assert response.status_code == 400
    check_shape(base, response.json())


def test_chutes_sends_cumulative_usage_in_every_chunk(server: Server) -> None:
    *chunks, _ = server.stream(CHUTES_MODEL, CHUTES)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0 and counts == sorted(counts)
    assert chunks[-1]["choices"] == []
    assert counts[-1] == server.chat(CHUTES_MODEL, CHUTES).json()["usage"]["completion_tokens"]


def test_chutes_reports_a_failure_on_a_bare_line(server: Server) -> None:
    with server.chat("sandbox/sandbox-error-event", CHUTES, stream=True) as response:
        last = response.content.decode().strip().split("\n")[-1]
    assert last.startswith('{"error":"Unhandled exception during response stream')


def test_deepinfra_estimates_the_cost_and_always_sends_usage(server: Server) -> None:
    model = get_model(server, DEEPINFRA)
    assert server.chat(model, DEEPINFRA).json()["usage"]["estimated_cost"] > 0
    finish = server.stream(model, DEEPINFRA)[-2]
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["usage"]["estimated_cost"] > 0


def test_featherless_mixes_comments_and_null_into_its_streams(server: Server) -> None:
    model = get_model(server, FEATHERLESS)
    with server.chat(model, FEATHERLESS, stream=True, reasoning_effort="low") as response:
        text = response.content.decode()
    assert text.startswith(": FEATHERLESS PROCESSING\n\n")
    assert "data: null\n\n" in text
    assert '"delta":{"reasoning":' in text and "raw_output" not in text


def test_featherless_sends_its_own_error_event(server: Server) -> None:
    last = server.stream("sandbox/sandbox-error-event", FEATHERLESS)[-1]
    assert (last["object"], last["error"]["code"]) == ("error", "capacity_exhausted")
