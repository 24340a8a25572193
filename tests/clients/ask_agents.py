"""Runs an agent of the OpenAI Agents SDK with a tool, over Responses and over chat; see test_agents.py.

Reads `{"url", "key", "model", "cut", "prompt"}` and prints the results of each API.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from agents import Agent, Model, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from agents.tracing import set_tracing_disabled
from openai import AsyncOpenAI


@function_tool
def add(a: int, b: int) -> str:
    """Adds."""
    return str(a + b)


async def run(model: Model, cut: Model, prompt: str) -> dict[str, Any]:
    """Runs the agent unstreamed and streamed, and streamed with the model whose streams are cut."""
    agent = Agent(name="Adder", instructions="Add.", tools=[add], model=model)
    whole = await Runner.run(agent, prompt)
    streamed = Runner.run_streamed(agent, prompt)
    kinds = [event.item.type async for event in streamed.stream_events() if event.type == "run_item_stream_event"]
    broken = Runner.run_streamed(Agent(name="Broken", model=cut), "Hello!")
    error = None
    try:
        async for _ in broken.stream_events():
            pass
    except Exception as raised:
        error = type(raised).__name__
    return {
        "whole": whole.final_output,
        "streamed": streamed.final_output,
        "outputs": [item.output for item in whole.new_items if item.type == "tool_call_output_item"],
        "kinds": kinds,
        "tokens": whole.context_wrapper.usage.total_tokens,
        "cut": error,
    }


async def main() -> None:
    """Runs both models side by side."""
    job = json.load(sys.stdin)
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{job['url']}/v1", api_key=job["key"], max_retries=0)
    kinds: dict[str, Any] = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}
    found = await asyncio.gather(
        *(
            run(make(job["model"], openai_client=client), make(job["cut"], openai_client=client), job["prompt"])
            for make in kinds.values()
        )
    )
    print(json.dumps(dict(zip(kinds, found, strict=True))))


asyncio.run(main())
