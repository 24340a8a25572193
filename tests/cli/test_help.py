"""The help of the commands."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from app.cli import CommandsWithoutSettings

ALL = CommandsWithoutSettings("")
GROUPS = [name for name, command in ALL.commands.items() if isinstance(command, click.Group)]


@pytest.mark.parametrize("arguments", [[], *([name] for name in GROUPS)], ids=lambda names: " ".join(names) or "all")
def test_no_line_of_a_list_of_commands_is_cut_on_a_usual_terminal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gateway", *arguments, "--help"])
    result = CliRunner().invoke(ALL, [*arguments, "--help"], prog_name="bin/gateway", terminal_width=80)
    usage, _, listed = result.output.partition("Commands:\n")
    assert result.exit_code == 0 and usage and listed
    assert [line for line in listed.splitlines() if line.endswith("...")] == []
