"""The commands for aliases print what docs/routing.md shows, and refuse mistakes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from app import create_app
from app.config import ROOT, load_settings
from app.runtime import use_settings
from app.services.administration import AuditFilter, select_audit_page
from app.services.alias_administration import select_alias_view
from tests.support.gateway import base_settings

SECTION = (ROOT / "docs" / "routing.md").read_text().partition("\n## Names of one's own\n")[2]
BLOCKS: list[tuple[str, str]] = re.findall(
    r"```(bash|text)\n(.*?)```", SECTION.partition("**Over HTTP**")[0], re.DOTALL
)

Run = Callable[[str], Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Iterator[Run]:
    """A function that runs a command of `bin/gateway aliases`, on a fresh database."""
    runner = create_app(load_settings(base_settings(tmp_path, database_url))).test_cli_runner()
    yield lambda line: runner.invoke(args=["aliases", *shlex.split(line)])
    use_settings(None)


def _mask(shown: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", shown)


def test_the_documented_commands_print_what_is_documented(run: Run) -> None:
    output = ""
    for kind, block in BLOCKS:
        if kind == "text":
            assert _mask(output) == _mask(block)
            continue
        for line in block.strip().split("\n"):
            done = run(line.removeprefix("bin/gateway aliases "))
            assert done.exit_code == 0, (line, done.output)
            output = done.output


MISTAKES = {
    "set new": "Nothing to set is given",
    "set new --sort price": "An alias needs at least one target",
    "set new --to ,": "--to is empty",
    "set new --to fireworks/a --weights 1,2": "--weights has 2 numbers for 1 models",
    "set new --to fireworks/a --weights many": "'many' in --weights is not a number",
    "set new --to fireworks/a --weights nan": "must be a number above 0",
    "set new --to fireworks/a --weights inf": "must be a number above 0",
    "set new --to fireworks/a --weights fireworks/b=2": "names 'fireworks/b', which is not one of: fireworks/a",
    "set new --to fireworks/a --override temperature": "has no value",
    "set new --to fireworks/a --override n=1 --override n=2": "is there twice",
    "set new --to fireworks/a --override temperature=hot": "`temperature` must be a number from 0 to 2",
    "set new --to fireworks/a --sort price --clear sort": "--clear sort takes away",
    "set new --weights 2": "There is no alias 'new'",
    "show new": "There is no alias 'new'",
    "remove new": "There is no alias 'new'",
}


def test_mistakes_are_sentences_and_the_rest_does_what_it_says(run: Run) -> None:
    for line, sentence in MISTAKES.items():
        done = run(line)
        assert done.exit_code != 0 and sentence in done.output and "Traceback" not in done.output, (line, done.output)
    assert run("list").output == "NAME  SORT        TARGETS\n"
    schema = '\'{"type": "json_schema", "z": 1, "a": 2}\''
    line = f"set new --to fireworks/a,fireworks/b --weights 5,2 --override stop=END --override response_format={schema}"
    assert run(line).exit_code == 0
    assert run("set new --weights fireworks/b=3").exit_code == 0
    view = select_alias_view("new")
    assert [target.weight for target in view.targets] == [5, 3]
    assert repr(view.overrides) == repr({"stop": "END", "response_format": {"type": "json_schema", "z": 1, "a": 2}})
    assert run("set new --clear weights --clear overrides --sort latency").exit_code == 0
    view = select_alias_view("new")
    assert ([target.weight for target in view.targets], view.overrides, view.sort) == ([None, None], {}, "latency")
    events = select_audit_page(AuditFilter(object="alias:new"), None, 10).data
    assert [event.action for event in events] == ["alias.change", "alias.change", "alias.create"]
    assert all(event.actor.startswith("cli:") for event in events)
