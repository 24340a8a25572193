"""Codex CLI, which speaks only Responses, and Claude Code, over Messages, solve a task of two steps with their shells.

The sandbox answers by the script in the prompt, so the tests cover everything between an agent and its model: the
agent's own requests of thousands of tokens, its tools, the stream that it reads, and the event that ends it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.soak import soak_only
from tests.support.tree import ROOT

PACKAGES = ROOT / "var" / "cli" / "node_modules"
CODEX = PACKAGES / "@openai" / "codex" / "bin" / "codex.js"
CLAUDE_CODE = PACKAGES / "@anthropic-ai" / "claude-code" / "cli-wrapper.cjs"
PAGE = (ROOT / "docs" / "clients.md").read_text()
_TIMEOUT_S = 60


def make_prompt(tool: str, argument: str, **more: str) -> str:
    """Returns a prompt whose script makes two calls of a shell tool, and then reports."""
    first, second = ({argument: command} | more for command in ("cat task.txt", "expr 2 + 3 > answer.txt"))
    steps = [
        {"tool_calls": [{"name": tool, "arguments": first}]},
        {"text": "I add.", "tool_calls": [{"name": tool, "arguments": second}]},
        {"text": "The sum is 5."},
    ]
    return "Solve task.txt. @sandbox " + json.dumps(steps)


def run_agent(program: Path, arguments: list[str], place: Path, settings: dict[str, str]) -> str:
    """Runs an agent in `place / "project"` with a home of its own, and returns its standard output."""
    node = shutil.which("node")
    if node is None or not program.exists():
        pytest.skip("the command-line agents are not installed (800 MB); `make agents` installs them")
    (place / "home").mkdir(exist_ok=True)
    (place / "project").mkdir()
    (place / "project" / "task.txt").write_text("2 + 3\n")
    done = subprocess.run(
        [node, program, *arguments],
        cwd=place / "project",
        env={"PATH": os.environ["PATH"], "HOME": str(place / "home")} | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "project" / "answer.txt").read_text() == "5\n"
    return done.stdout


def read_settings(title: str, language: str, gateway: Gateway) -> str:
    """Returns the first block of a section of docs/clients.md, with the gateway's address."""
    block = PAGE.partition(f"\n## {title}\n")[2].partition(f"```{language}\n")[2].partition("```")[0]
    assert "http://localhost:8000" in block
    return block.replace("http://localhost:8000", gateway.url).replace("your gateway key", gateway.key)


@soak_only("clients/test_sdks.py::test_an_agent_calls_its_tool_and_reports")
def test_codex_reads_a_file_writes_another_and_reports(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "home" / ".codex").mkdir(parents=True)
    (tmp_path / "home" / ".codex" / "config.toml").write_text(read_settings("Codex CLI", "toml", gateway))
    arguments = ["exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    prompt = make_prompt("exec_command", "cmd")
    output = run_agent(CODEX, [*arguments, prompt], tmp_path, {"GATEWAY_API_KEY": gateway.key})

    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    finished = [event["item"] for event in events if event["type"] == "item.completed"]
    commands = [item for item in finished if item["type"] == "command_execution"]
    assert [(item["exit_code"], item["aggregated_output"]) for item in commands] == [(0, "2 + 3\n"), (0, "")]
    assert [item["text"] for item in finished if item["type"] == "agent_message"] == ["I add.", "The sum is 5."]
    (turn,) = [event for event in events if event["type"] == "turn.completed"]
    assert turn["usage"]["input_tokens"] > 1000 and turn["usage"]["output_tokens"] > 10


@soak_only("clients/test_sdks.py::test_an_agent_calls_its_tool_and_reports")
def test_claude_code_reads_a_file_writes_another_and_reports(gateway: Gateway, tmp_path: Path) -> None:
    lines = [line for line in read_settings("Claude Code", "bash", gateway).splitlines() if line.startswith("export ")]
    settings = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    prompt = make_prompt("Bash", "command", description="A step.")
    arguments = ["-p", prompt, "--output-format", "json", "--allowedTools", "Bash"]
    unquoted = {name: value.strip('"') for name, value in settings.items()}
    found: dict[str, Any] = json.loads(run_agent(CLAUDE_CODE, arguments, tmp_path, unquoted))
    assert (found["result"], found["is_error"], found["num_turns"]) == ("The sum is 5.", False, 3)
    (used,) = found["modelUsage"].values()
    assert (used["contextWindow"], used["outputTokens"]) == (128_000, found["usage"]["output_tokens"])
    assert found["permission_denials"] == [] and found["usage"]["output_tokens"] > 10
