"""Guards the rules of the house: who imports whom, one home for each library, sizes, and pages that name everything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from app import create_app
from app.config import load_settings, setting_names
from app.routes import BLUEPRINTS
from app.runtime import use_settings

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for path in (ROOT / "app").rglob("*.py"))
README = (ROOT / "README.md").read_text()

LEAVES = {"config", "errors", "logs", "metrics", "runtime", "shutdown", "yielding"}
SERVICES = {
    "services.endpoints",
    "services.fireworks_client",
    "services.health",
    "services.inference",
    "services.journal",
    "services.keys",
    "services.models",
    "services.pricing",
    "services.providers",
    "services.reports",
    "services.streaming",
}
# What a package may import besides itself and the leaves. Leaves import leaves only.
ALLOWED: dict[str, set[str]] = {
    "leaf": set(),
    "db": set(),
    "upstream": set(),
    "sandbox": set(),
    "services.pricing": set(),
    "services.providers": {"services.pricing", "upstream"},
    "services.models": {"services.providers", "services.pricing", "upstream"},
    "services.endpoints": set(),
    "services.streaming": {"services.endpoints", "upstream"},
    "services.fireworks_client": {
        "services.streaming",
        "services.endpoints",
        "services.providers",
        "services.inference",
        "upstream",
    },
    "services.journal": {"db"},
    "services.keys": {"db"},
    "services.reports": {"db"},
    "services.inference": SERVICES - {"services.health", "services.reports", "services.keys"} | {"upstream"},
    "services.health": SERVICES | {"db"},
    "web": {"db", "services.keys", "services.journal", "services.models", "routes"},
    "routes": SERVICES | {"web"},
    "server": SERVICES | {"db"},
    "cli": SERVICES | {"db"},
}


@pytest.fixture
def app() -> Iterator[Flask]:
    """The application with default settings: nothing is asked of it but what it consists of."""
    yield create_app(load_settings({}))
    use_settings(None)


def _package(module: str) -> str:
    """Returns the package that a module of ours belongs to, as ALLOWED names it; "top" sees everything."""
    parts = module.split(".")[1:]
    if not parts:
        return "top"
    if parts[0] in LEAVES:
        return "leaf"
    name = ".".join(parts[:2]) if parts[0] == "services" else parts[0]
    return name if name in ALLOWED else "top"


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module in {"app", "app.services"}:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return found


def test_imports_only_go_down() -> None:
    wrong = []
    for path in MODULES:
        name = _module_name(path)
        package = _package(name)
        if package == "top":
            continue
        for imported in _imports(path):
            if imported.startswith("app.") and _package(imported) not in {package, "leaf", *ALLOWED[package]}:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


HOMES = {
    "requests": {"app.upstream"},
    "urllib3": {"app.upstream"},
    "sqlalchemy": {"app.db"},
    "psycopg2": {"app.db", "app.dev"},
    "alembic": {"app.db"},
    "gevent": {"app.services.inference.cancellation", "app.upstream", "app.db.errors", "app.sandbox", "app.server"},
    "flask": {"app", "app.web", "app.routes", "app.cli"},
}


def test_each_library_has_its_home() -> None:
    strangers = []
    for path in MODULES:
        name = _module_name(path)
        for imported in _imports(path):
            homes = HOMES.get(imported.split(".")[0])
            if homes and not any(name == home or (home != "app" and name.startswith(home + ".")) for home in homes):
                strangers.append(f"{name} imports {imported}")
    assert strangers == []


def test_modules_and_functions_are_short_and_documented() -> None:
    wrong = []
    for path in MODULES:
        source, name = path.read_text(), _module_name(path)
        tree = ast.parse(source)
        if source.count("\n") > 300:
            wrong.append(f"{name} has more than 300 lines")
        if source.strip() and not ast.get_docstring(tree):
            wrong.append(f"{name} does not open with a sentence on what it owns")
        wrong += [
            f"{name}.{node.name} has more than 60 lines"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.body[0].lineno > 60
        ]
        wrong += [
            f"{name}.{node.name} has no docstring"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
    assert wrong == []


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
    source = (ROOT / "app/metrics.py").read_text() + (ROOT / "app/services/health/gauges.py").read_text()
    defined = set(re.findall(r'"(gateway_\w+)"', source))
    documented = set(re.findall(r"^\| `(gateway_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert defined == documented
