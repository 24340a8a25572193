"""Fallback over the other endpoints, after a context overflow, and none once the client has a part of the answer."""

from __future__ import annotations

import pytest

from tests.fallback.failures import CUT_LATER, FAILURES, OVERFLOW, OVERLOADED, Failure
from tests.fallback.providers import PROVIDERS, Providers, serve
from tests.faults.scripts import answer
from tests.support.chat import Seen

CHAT = "/v1/chat/completions"
GONE = next(failure for failure in FAILURES if failure.shown == "404")
BEGINS_WITH_ERROR = next(failure for failure in FAILURES if failure.name == "begins its stream with an error")
TOO_LONG = answer({"error": {"message": OVERFLOW, "type": "invalid_request_error"}}, 400)

# The words that end a good stream of each endpoint.
ENDS = {"/v1/messages": b"event: message_stop", "/v1/responses": b"event: response.completed"}


def ask(providers: Providers, path: str, plan: list[Failure | None], *, is_stream: bool) -> tuple[Seen, list[str]]:
    """Sends a request whose targets fail like this (None: answer well); returns the response and the targets asked."""
    number = providers.take_number()
    scripts = [
        serve(is_stream=is_stream, path=path) if each is None else each.get_script(is_stream=is_stream) for each in plan
    ]
    more = {"stream": True} if is_stream else {}
    seen = providers.ask(number, list(zip(PROVIDERS, scripts, strict=False)), path, **more)
    return seen, [provider for provider, _ in providers.get_calls(number)]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", ENDS)
def test_a_translated_request_falls_back_and_its_error_has_its_apis_form(
    providers: Providers, path: str, is_stream: bool
) -> None:
    first = BEGINS_WITH_ERROR if is_stream else OVERLOADED
    seen, called = ask(providers, path, [first, GONE, None], is_stream=is_stream)
    assert (seen.status, seen.cut, called) == (200, False, list(PROVIDERS))
    assert seen.headers["x-gateway-attempts"] == f"fireworks={first.shown}, deepinfra=404, chutes=200"
    assert seen.body.count(ENDS[path]) == is_stream and b"error" not in seen.body.replace(b'"error":null', b"")

    seen, called = ask(providers, path, [OVERLOADED] * 3, is_stream=is_stream)
    assert (seen.status, called) == (529 if path == "/v1/messages" else 503, list(PROVIDERS))
    assert seen.headers["x-gateway-attempts"] == "fireworks=503, deepinfra=503, chutes=503"
    assert seen.error["message"] and seen.error["type"]


def test_embeddings_fall_back(providers: Providers) -> None:
    seen, called = ask(providers, "/v1/embeddings", [OVERLOADED, None], is_stream=False)
    assert (seen.status, called) == (200, ["fireworks", "deepinfra"])
    assert seen.json["data"][0]["embedding"] == [0.5, 0.25]
    seen, called = ask(providers, "/v1/embeddings", [OVERLOADED, GONE], is_stream=False)
    assert (seen.status, called) == (503, ["fireworks", "deepinfra"])
    assert seen.headers["x-gateway-attempts"] == "fireworks=503, deepinfra=404"


def test_a_prompt_that_is_too_long_goes_to_larger_contexts_only(providers: Providers) -> None:
    good, number = serve(is_stream=False), providers.take_number()
    seen = providers.ask(number, [("fireworks", TOO_LONG), ("deepinfra", good), ("chutes", good)])
    assert (seen.status, seen.headers["x-gateway-attempts"]) == (200, "fireworks=400, chutes=200")
    assert [provider for provider, _ in providers.get_calls(number)] == ["fireworks", "chutes"]

    number = providers.take_number()
    seen = providers.ask(number, [("chutes", TOO_LONG), ("fireworks", good), ("deepinfra", good)])
    assert (seen.status, seen.error["code"]) == (400, "context_length_exceeded")
    assert len(providers.get_calls(number)) == 1


@pytest.mark.parametrize("before", [0, 1, 2])
def test_nothing_is_tried_once_the_client_has_a_part_of_the_answer(providers: Providers, before: int) -> None:
    number, good = providers.take_number(), serve(is_stream=True)
    scripts = [*[OVERLOADED.script] * before, CUT_LATER, good, good]
    seen = providers.ask(number, list(zip(PROVIDERS, scripts, strict=False)), stream=True)
    assert (seen.status, seen.cut, seen.error["code"]) == (200, True, "upstream_cut")
    assert b'"one "' in seen.body and b"[DONE]" not in seen.body
    assert [provider for provider, _ in providers.get_calls(number)] == list(PROVIDERS[: before + 1])
    row = providers.wait_for_rows("request_id", [seen.request_id])[seen.request_id]
    assert (row["outcome"], row["gateway"], row["usage_source"]) == ("upstream_cut", PROVIDERS[before], "counted")
    assert len(row["attempts"]) == (before + 1 if before else 0)
