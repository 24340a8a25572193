"""Guards the rules of the house: import direction, sizes, one `import requests`, and a README that names everything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from app import create_app
from app.config import load_settings, setting_names, use_settings
from app.routes import BLUEPRINTS

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for path in (ROOT / "app").rglob("*.py"))
README = (ROOT / "README.md").read_text()

# What a layer may import of the others. Leaves import leaves only.
ALLOWED = {
    "routes": {"routes", "services", "leaf"},
    "services": {"services", "db", "leaf"},
    "db": {"db", "leaf"},
    "leaf": {"leaf"},
    "sandbox": {"sandbox"},
    "cli": {"cli", "services", "db", "leaf"},
}
LEAVES = {"config", "errors", "logs"}


@pytest.fixture
def app() -> Iterator[Flask]:
    """The application with default settings: nothing is asked of it but what it consists of."""
    yield create_app(load_settings({}))
    use_settings(None)


def _layer(module: str) -> str:
    parts = module.split(".")
    if len(parts) < 2 or parts[0] != "app":
        return "outside"
    if parts[1] in LEAVES:
        return "leaf"
    return parts[1] if parts[1] in ALLOWED else "top"


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "app" or node.module.startswith("app."):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_imports_only_go_down(path: Path) -> None:
    layer = _layer(_module_name(path))
    if layer not in ALLOWED:
        return  # The factory, http.py, boot and worker see everything.
    wrong = {
        name for name in _imports(path) if _layer(name) not in {*ALLOWED[layer], "outside"} and name.count(".") > 0
    }
    assert not wrong


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("requests", {"app.services.upstream"}),
        ("sqlalchemy", {"app.db"}),
        ("psycopg2", {"app.db", "app.dev"}),
        ("alembic", {"app.db"}),
        (
            "gevent",
            {
                "app.services.interrupts",
                "app.services.pool",
                "app.services.waits",
                "app.db.errors",
                "app.sandbox",
                "app.gunicorn_worker",
            },
        ),
        ("flask", {"app", "app.application", "app.http", "app.routes", "app.cli"}),
    ],
)
def test_each_library_has_its_home(library: str, homes: set[str]) -> None:
    users = {
        _module_name(path)
        for path in MODULES
        if any(name == library or name.startswith(library + ".") for name in _imports(path))
    }
    strangers = {
        user
        for user in users
        if not any(user == home or (home != "app" and user.startswith(home + ".")) for home in homes)
    }
    assert not strangers


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_modules_are_short_and_say_what_they_own(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= 300
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), "a module opens with a sentence on what it owns"


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_functions_are_short_and_public_ones_are_documented(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        assert node.end_lineno is not None
        body_lines = node.end_lineno - node.body[0].lineno
        assert body_lines <= 60, f"{node.name} is too long"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_readme_names_every_setting() -> None:
    assert [name for name in setting_names() if f"`{name}`" not in README] == []


def test_readme_names_every_route(app: Flask) -> None:
    rules = {re.sub(r"<(?:\w+:)?(\w+)>", "<>", rule.rule) for rule in app.url_map.iter_rules()}
    documented = set(re.sub(r"<[^>]*>", "<>", README).replace("`", " ").split())
    assert sorted(rule for rule in rules if rule not in documented) == []


def test_readme_names_every_command(app: Flask) -> None:
    commands = set()
    for group in app.cli.commands.values():
        commands.update(f"{group.name} {name}" for name in getattr(group, "commands", {}))
    ours = {command for command in commands if command.split()[0] in {"keys", "db", "activity"}}
    assert sorted(command for command in ours if command not in README) == []


def test_every_route_asks_for_a_key_or_is_known_to_be_open() -> None:
    assert {blueprint.name for blueprint, access in BLUEPRINTS if access == "open"} == {"catalog", "health", "metrics"}
    assert {blueprint.name for blueprint, access in BLUEPRINTS if access == "public_stats"} == {"stats"}


def test_the_project_holds_no_key_and_no_machine_path() -> None:
    shapes = re.compile(r"\b(fw|rc|cpk|gw)_[A-Za-z0-9]{16,}|/root/|/home/\w+/")
    for path in [*MODULES, ROOT / ".env", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert not shapes.search(path.read_text()), path


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    source = (ROOT / "app/services/metrics.py").read_text()
    defined = set(re.findall(r'"(gateway_\w+)"', source))
    documented = set(re.findall(r"^\| `(gateway_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert defined == documented
