"""docs/sandbox.md matches the sandbox, and its examples work as printed, through the gateway."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.sandbox.behaviours import describe_behaviours
from app.sandbox.fireworks_models import list_fireworks_models
from app.sandbox.providers import PROVIDERS
from app.sandbox.scripts import FIELDS, SCRIPT_HEADER
from app.sandbox.state import Options
from tests.sandbox.client import PLAIN, PREFIX
from tests.support.chat import HELLO
from tests.support.gateway import Gateway, clean_environment
from tests.support.sdks import openai
from tests.support.waiting import PATIENCE_S

PAGE = (Path(__file__).resolve().parents[2] / "docs/sandbox.md").read_text()
# Each prompt of the page, with the choice printed after it.
EXAMPLES = re.findall(r"```text\n(.*?)```\n```json\n(.*?)```", PAGE, re.DOTALL)
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "get_time")]


def section(title: str) -> str:
    """Returns the text below a heading, up to the next one of the same level or above."""
    found = re.search(rf"^(##+) {title}\n(.*?)(?=^##? |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[2]


def read_table(title: str) -> list[list[str]]:
    """Returns the rows of the first table of a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_page_lists_the_models_as_they_are() -> None:
    faults = {name.strip("`"): text for name, text in read_table("Models that misbehave")}
    assert faults == describe_behaviours()
    plain = [model["id"].removeprefix(PREFIX) for model in list_fireworks_models()["data"]]
    listed = re.findall("`([^`<]+)`", section("Models").split("\n\n")[-2])
    assert listed == [name for name in plain if name not in faults]


def test_the_page_names_every_provider_and_field() -> None:
    head = PAGE.partition("\n## ")[0]
    for provider in PROVIDERS:
        found = re.search(rf"^\| {provider.name} \| `(.*?)` \| `(.*?)` \|$", head, re.MULTILINE)
        assert found and found[1] == provider.base
        assert provider.find_model(Options(), found[2])
    assert [row[0].strip("`") for row in read_table("Scripted answers")] == list(FIELDS)
    assert f"`{SCRIPT_HEADER}`" in PAGE


def contains(whole: Any, part: Any) -> bool:
    """Returns whether a JSON value has everything that the second one has."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(contains(whole.get(name), value) for name, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize(("prompt", "choice"), EXAMPLES)
def test_an_example_gets_the_printed_answer_streamed_and_not(gateway: Gateway, prompt: str, choice: str) -> None:
    request: dict[str, Any] = {"model": PLAIN, "messages": [{"role": "user", "content": prompt}]}
    if "tool_calls" in prompt:
        request["tools"] = TOOLS
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        whole = client.chat.completions.create(**request)
        stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
        chunks = [chunk.model_dump() for chunk in stream]
    wanted = json.loads(choice)
    assert contains(whole.choices[0].model_dump(), wanted)
    assert contains(collect(chunks), wanted)
    assert chunks[-1]["usage"] == whole.usage.model_dump()
    if "usage" in prompt:
        assert whole.usage.completion_tokens == 9


def test_the_gateway_passes_on_what_is_wrong_with_a_script_or_schema(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="unknown field, 'txt'; the fields are text, json"):
            client.chat.completions.create(model=PLAIN, messages=[{"role": "user", "content": '@sandbox {"txt": ""}'}])
        form: Any = {"type": "json_schema", "json_schema": {"name": "never", "schema": {}}}
        form["json_schema"]["schema"] = {"type": "object", "required": ["a"], "properties": {"a": False}}
        with pytest.raises(openai.BadRequestError, match="no value was found at .*a: the schema allows no value here"):
            client.chat.completions.create(model=PLAIN, messages=HELLO, response_format=form)


def collect(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the choice that the chunks of a stream make up."""
    message: dict[str, Any] = {}
    reason = None
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        reason = choice["finish_reason"] or reason
        for name in ("content", "reasoning_content"):
            if choice["delta"].get(name):
                message[name] = message.get(name, "") + choice["delta"][name]
        for piece in choice["delta"].get("tool_calls") or ():
            calls = message.setdefault("tool_calls", [])
            if piece["index"] == len(calls):
                calls.append({"type": piece["type"], "function": {"name": piece["function"]["name"], "arguments": ""}})
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return {"message": message, "finish_reason": reason}


def test_the_agent_prints_what_the_page_shows(gateway: Gateway, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert found
    script = tmp_path / "agent.py"
    script.write_text(found[1].replace("http://localhost:8000", gateway.url).replace("your gateway key", gateway.key))
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.stdout, done.returncode) == (found[2], 0), done.stderr
