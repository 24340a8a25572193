"""The programs and commands of docs/clients.md work as printed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, clean_environment
from tests.support.soak import soak_only
from tests.support.tree import ROOT

PAGE = (ROOT / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"^```(python|javascript|bash)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
NEEDED = {"from agents": "agents", "from langchain_openai": "langchain_openai"}


def get_blocks(language: str) -> list[str]:
    return [block for name, block in BLOCKS if name == language]


def run_block(command: list[str], gateway: Gateway) -> None:
    """Runs a command and checks that the sandbox's greeting came through."""
    settings = clean_environment() | {"GATEWAY_API_KEY": gateway.key}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=60, check=False)
    assert done.returncode == 0 and "[sandbox] Hello!" in done.stdout, done.stdout + done.stderr


def fill(block: str, gateway: Gateway) -> str:
    return block.replace("http://localhost:8000", gateway.url).replace("your gateway key", gateway.key)


def test_the_page_has_all_of_them() -> None:
    assert [len(get_blocks(language)) for language in ("python", "javascript", "bash")] == [4, 3, 2]


@soak_only("clients/test_page.py::test_the_command_with_curl")
@pytest.mark.parametrize("block", get_blocks("python"), ids=lambda block: block.split()[1])
def test_a_program_in_python(gateway: Gateway, block: str) -> None:
    missing = [name for start, name in NEEDED.items() if start in block and importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed; `make check` installs it")
    run_block([sys.executable, "-c", fill(block, gateway)], gateway)


@soak_only("clients/test_page.py::test_the_command_with_curl")
@pytest.mark.parametrize("block", get_blocks("javascript"), ids=lambda block: block.split('"')[1])
def test_a_program_for_node(gateway: Gateway, node_place: Path, block: str) -> None:
    program = node_place / "page.mjs"
    program.write_text(fill(block, gateway))
    run_block(["node", str(program)], gateway)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_command_with_curl(gateway: Gateway) -> None:
    run_block(["bash", "-c", fill(get_blocks("bash")[0], gateway)], gateway)
