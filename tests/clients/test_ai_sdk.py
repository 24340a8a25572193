"""Vercel's AI SDK over each API that its packages speak: an agent with a tool, parsed output, errors, cut streams."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import RunNode
from tests.clients.test_sdks import CUTS, MODEL, SCRIPT
from tests.support.chat import PREFIX
from tests.support.gateway import Gateway
from tests.support.soak import soak_only

pytestmark = soak_only("clients/test_sdks.py::test_an_agent_calls_its_tool_and_reports")

APIS = ("responses", "chat", "compatible", "messages")


@pytest.fixture(scope="module")
def seen(run_node: RunNode, gateway: Gateway) -> dict[str, Any]:
    """The SDK's results over each API."""
    job = {"url": gateway.url, "key": gateway.key, "model": MODEL, "script": SCRIPT}
    found: dict[str, Any] = run_node("ai_sdk.mjs", job | {"cuts": {cut: PREFIX + cut for cut in CUTS}})
    return found


@pytest.mark.parametrize("api", APIS)
def test_an_agent_calls_its_tool_and_reports_in_both_modes(seen: dict[str, Any], api: str) -> None:
    whole = seen[api]["whole"]
    assert (whole["text"], whole["finish"], whole["calls"]) == ("I add.The sum is 5.", "stop", 1)
    assert whole["tokens"] > 10 and seen[api]["stream"] == whole


@pytest.mark.parametrize("api", APIS)
def test_an_answer_is_parsed_by_its_schema(seen: dict[str, Any], api: str) -> None:
    assert seen[api]["parsed"] == {"city": "Oslo"}


def test_a_conversation_that_refers_to_stored_items_gets_advice(seen: dict[str, Any]) -> None:
    stored = seen["responses"]["stored"]
    assert stored["status"] == 400 and "with `store` set to false" in stored["message"]


@pytest.mark.parametrize("api", APIS)
def test_a_missing_model_is_the_sdks_own_error(seen: dict[str, Any], api: str) -> None:
    missing = seen[api]["missing"]
    assert (missing["name"], missing["status"]) == ("AI_APICallError", 404) and "no-such-model" in missing["message"]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("api", APIS)
def test_a_stream_that_was_cut_has_an_error_and_no_end(seen: dict[str, Any], api: str, cut: str) -> None:
    found = seen[api]["cuts"][cut]
    assert "Retry" in found["errors"][0] or cut == "sandbox-error-event"
    assert found["errors"] and found["finish"] is None
