"""The OpenAI Agents SDK with a tool, over Responses (its default) and over chat."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.clients.conftest import RunPython
from tests.clients.test_sdks import MODEL, SCRIPT
from tests.support.chat import PREFIX
from tests.support.gateway import Gateway

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("agents") is None, reason="openai-agents is not installed; `make check` installs it"
)


@pytest.fixture(scope="module")
def seen(run_python: RunPython, gateway: Gateway) -> dict[str, Any]:
    """The agent's results over each API."""
    job = {"url": gateway.url, "key": gateway.key, "model": MODEL, "prompt": SCRIPT}
    found: dict[str, Any] = run_python("ask_agents.py", job | {"cut": PREFIX + "sandbox-cut-after-3"})
    return found


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_an_agent_calls_its_tool_and_reports_in_both_modes(seen: dict[str, Any], api: str) -> None:
    found = seen[api]
    assert found["whole"] == found["streamed"] == "The sum is 5."
    assert found["outputs"] == ["5"] and found["tokens"] > 10
    kinds = ["message_output_item", "tool_call_item", "tool_call_output_item", "message_output_item"]
    assert found["kinds"] == kinds


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_run_whose_stream_was_cut_raises(seen: dict[str, Any], api: str) -> None:
    assert seen[api]["cut"] is not None
