"""The distribution of the tests over processes names files that exist, and keeps a group together."""

from __future__ import annotations

import ast

from tests.support.distribution import _LONGEST, _TOGETHER, group_of, sort_key_of
from tests.support.tree import ROOT


def test_every_name_is_the_beginning_of_a_file() -> None:
    names = [*_LONGEST, *(file for files in _TOGETHER for file in files)]
    assert [name for name in names if not list((ROOT / "tests").glob(f"{name}*"))] == []
    groups = {group_of(str(path.relative_to(ROOT))).removeprefix("tests/") for path in ROOT.glob("tests/**/test_*.py")}
    assert [name for name in _LONGEST if not any(group.startswith(name) for group in groups)] == []


def test_files_that_share_a_gateway_are_one_group_and_others_are_their_own() -> None:
    own, provider = (f"tests/faults/{file}.py::test_one" for file in ("test_own", "test_provider"))
    assert group_of(own) == group_of(provider) and sort_key_of(own) == sort_key_of(provider)
    assert group_of("tests/test_env.py::test_one[a::b]") == "tests/test_env.py"


def test_the_longest_group_comes_first_and_the_others_in_the_order_of_their_names() -> None:
    names = [
        "tests/web/test_a.py::t",
        "tests/cli/test_b.py::t",
        f"tests/{_LONGEST[1]}.py::t",
        f"tests/{_LONGEST[0]}.py::t",
    ]
    assert sorted(names, key=sort_key_of) == [names[3], names[2], names[1], names[0]]


def test_no_file_imports_an_sdk_while_the_tests_are_collected() -> None:
    programs = set((ROOT / "tests/clients").glob("*.py"))  # Each runs as a separate process.
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted({*(ROOT / "tests").rglob("*.py")} - programs)
        for node in ast.parse(path.read_text()).body
        for name in _imported(node)
        if name.partition(".")[0] in {"anthropic", "openai"}
    ]
    assert wrong == [], "take them from tests/support/sdks.py"


def _imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
