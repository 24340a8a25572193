"""Codex CLI, which speaks only Responses, solves a task of two steps with its shell tool."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.tree import ROOT

CODEX = ROOT / "var" / "codex" / "node_modules" / ".bin" / "codex"
CONFIG = """
model = "deepseek-v3p1"
model_provider = "gateway"

[model_providers.gateway]
name = "The gateway"
base_url = "{url}/v1"
env_key = "GATEWAY_API_KEY"
wire_api = "responses"
"""
STEPS = [
    {"tool_calls": [{"name": "exec_command", "arguments": {"cmd": "cat task.txt"}}]},
    {"text": "I add.", "tool_calls": [{"name": "exec_command", "arguments": {"cmd": "expr 2 + 3 > answer.txt"}}]},
    {"text": "The sum is 5."},
]


@pytest.mark.skipif(not CODEX.exists(), reason="Codex CLI is not installed (400 MB); `make codex` installs it")
def test_codex_reads_a_file_writes_another_and_reports(gateway: Gateway, tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    (home / ".codex").mkdir(parents=True)
    project.mkdir()
    (home / ".codex" / "config.toml").write_text(CONFIG.format(url=gateway.url))
    (project / "task.txt").write_text("2 + 3\n")
    done = subprocess.run(
        [CODEX, "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        + ["Solve task.txt. @sandbox " + json.dumps(STEPS)],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "GATEWAY_API_KEY": gateway.key},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    finished = [event["item"] for event in events if event["type"] == "item.completed"]
    commands = [item for item in finished if item["type"] == "command_execution"]
    assert [(item["exit_code"], item["aggregated_output"]) for item in commands] == [(0, "2 + 3\n"), (0, "")]
    assert (project / "answer.txt").read_text() == "5\n"
    assert [item["text"] for item in finished if item["type"] == "agent_message"] == ["I add.", "The sum is 5."]
    (turn,) = [event for event in events if event["type"] == "turn.completed"]
    assert turn["usage"]["input_tokens"] > 1000 and turn["usage"]["output_tokens"] > 10
