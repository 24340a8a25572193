"""Runs cases with the official SDKs for Python; sdks.mjs is its twin for Node. See test_sdks.py for the cases.

Reads `{"url", "key", "cases": [{"name", "api", "mode", "model", "prompt", "key", "more"}]}` from standard input, and
prints the result of each case: `{name: {"text", "finish", "tokens", "calls", "vectors", "error"}}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anthropic
import httpx2
import openai

ADDED = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
# Marks each request as an SDK's retry, so that the gateway sends it only once.
ONCE = {"x-stainless-retry-count": "1"}
FUNCTION: dict[str, Any] = {"name": "add", "description": "Adds.", "parameters": ADDED}
TOOLS: dict[str, Any] = {
    "chat": [{"type": "function", "function": FUNCTION}],
    "responses": [{"type": "function", "strict": False} | FUNCTION],
    "messages": [{"name": "add", "description": "Adds.", "input_schema": ADDED}],
}


class Clients:
    """Both SDKs with one key, their own retries off."""

    def __init__(self, url: str, key: str) -> None:
        more: dict[str, Any] = {"api_key": key, "max_retries": 0, "timeout": 30, "default_headers": ONCE}
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", **more)
        self.anthropic = anthropic.AsyncAnthropic(base_url=url, **more)

    async def chat(self, asked: dict[str, Any], messages: list[Any], stream: bool, seen: dict[str, Any]) -> None:
        create = self.openai.chat.completions
        if not stream:
            answer: Any = await create.create(messages=messages, **asked)
        else:
            options = {"include_usage": True}
            async with create.stream(messages=messages, stream_options=options, **asked) as events:
                async for event in events:
                    if event.type == "content.delta":
                        seen["text"] += event.delta
                answer = await events.get_final_completion()
        message = answer.choices[0].message
        seen |= {"finish": answer.choices[0].finish_reason, "tokens": answer.usage.total_tokens}
        seen["text"] = message.content or ""
        messages.append(message.to_dict() if not stream else message.model_dump(exclude_none=True, exclude={"parsed"}))
        for call in message.tool_calls or []:
            added = add(call.function.arguments, seen)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": added})

    async def responses(self, asked: dict[str, Any], messages: list[Any], stream: bool, seen: dict[str, Any]) -> None:
        if not stream:
            answer: Any = await self.openai.responses.create(input=messages, **asked)
        else:
            async with self.openai.responses.stream(input=messages, **asked) as events:
                async for event in events:
                    if event.type == "response.output_text.delta":
                        seen["text"] += event.delta
                answer = await events.get_final_response()
        seen |= {"finish": answer.status, "tokens": answer.usage.total_tokens, "text": answer.output_text}
        for item in answer.output:
            messages.append(item.to_dict())
            if item.type == "function_call":
                added = add(item.arguments, seen)
                messages.append({"type": "function_call_output", "call_id": item.call_id, "output": added})

    async def messages(self, asked: dict[str, Any], messages: list[Any], stream: bool, seen: dict[str, Any]) -> None:
        asked = {"max_tokens": 300} | asked
        if not stream:
            answer: Any = await self.anthropic.messages.create(messages=messages, **asked)
        else:
            async with self.anthropic.messages.stream(messages=messages, **asked) as events:
                async for text in events.text_stream:
                    seen["text"] += text
                answer = await events.get_final_message()
        usage = answer.usage
        tokens = usage.input_tokens + (usage.cache_read_input_tokens or 0) + usage.output_tokens
        seen |= {"finish": answer.stop_reason, "tokens": tokens}
        seen["text"] = "".join(block.text for block in answer.content if block.type == "text")
        messages.append({"role": "assistant", "content": [block.to_dict() for block in answer.content]})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": add(json.dumps(block.input), seen)}
            for block in answer.content
            if block.type == "tool_use"
        ]
        if results:
            messages.append({"role": "user", "content": results})

    async def completions(self, asked: dict[str, Any], messages: list[Any], stream: bool, seen: dict[str, Any]) -> None:
        prompt = messages[0]["content"]
        if not stream:
            answer = await self.openai.completions.create(prompt=prompt, **asked)
            seen |= {"text": answer.choices[0].text, "finish": answer.choices[0].finish_reason}
            seen["tokens"] = answer.usage.total_tokens
            return
        options: Any = {"include_usage": True}
        async for chunk in await self.openai.completions.create(
            prompt=prompt, stream=True, stream_options=options, **asked
        ):
            for choice in chunk.choices:
                seen["text"] += choice.text
                seen["finish"] = choice.finish_reason or seen["finish"]
            seen["tokens"] = chunk.usage.total_tokens if chunk.usage else seen["tokens"]

    async def embeddings(self, asked: dict[str, Any], messages: list[Any], stream: bool, seen: dict[str, Any]) -> None:
        answer = await self.openai.embeddings.create(input=[messages[0]["content"], "another"], **asked)
        seen |= {"vectors": [each.embedding for each in answer.data], "tokens": answer.usage.total_tokens}

    async def count(self, asked: dict[str, Any], messages: list[Any], stream: bool, seen: dict[str, Any]) -> None:
        counted = await self.anthropic.messages.count_tokens(messages=messages, **asked)
        seen["tokens"] = counted.input_tokens

    async def models(self, asked: dict[str, Any], messages: list[Any], stream: bool, seen: dict[str, Any]) -> None:
        seen["text"] = (await self.openai.models.retrieve(asked["model"])).id
        listed = [model.id async for model in self.openai.models.list()]
        shown = [model.id async for model in self.anthropic.models.list(limit=1000)]
        seen["calls"] = [asked["model"] in listed, any(model.endswith(asked["model"]) for model in shown)]


def add(arguments: str, seen: dict[str, Any]) -> str:
    """Adds the numbers of a tool call, and notes the call."""
    seen["calls"].append(json.loads(arguments))
    return str(seen["calls"][-1]["a"] + seen["calls"][-1]["b"])


async def run(case: dict[str, Any], clients: Clients) -> dict[str, Any]:
    """Runs a case; with tools, repeats the request until the model calls no tool any more."""
    seen: dict[str, Any] = {"text": "", "finish": None, "tokens": 0, "calls": [], "vectors": [], "error": None}
    messages: list[Any] = [{"role": "user", "content": case["prompt"]}]
    asked = {"model": case["model"]} | case["more"]
    mode = case["mode"]
    if mode.startswith("tools"):
        asked["tools"] = TOOLS[case["api"]]
    try:
        while True:
            calls = len(seen["calls"])
            await getattr(clients, case["api"])(asked, messages, mode in ("stream", "tools-streamed"), seen)
            if not mode.startswith("tools") or len(seen["calls"]) == calls:
                break
    except Exception as error:
        body = getattr(error, "body", None)
        inner = (body.get("error") or body) if isinstance(body, dict) else {}
        seen["error"] = {
            "name": type(error).__name__,
            # The SDKs do not always wrap the transport's own errors.
            "known": isinstance(error, openai.APIError | anthropic.APIError | httpx2.TransportError),
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None) or inner.get("code") or inner.get("type"),
            "message": str(error),
        }
    return seen


async def main() -> None:
    """Runs all cases at once."""
    job = json.load(sys.stdin)
    clients = {key: Clients(job["url"], key) for key in {job["key"], *(case["key"] for case in job["cases"])}}
    found = await asyncio.gather(*(run(case, clients[case["key"]]) for case in job["cases"]))
    print(json.dumps({case["name"]: seen for case, seen in zip(job["cases"], found, strict=True)}))


asyncio.run(main())
