"""Guards the house rules: imports between packages, one home for each library, sizes, and complete pages."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from app import create_app
from app.config import load_settings, setting_names
from app.routes import BLUEPRINTS
from app.runtime import use_settings
from app.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for path in (ROOT / "app").rglob("*.py"))
README = (ROOT / "README.md").read_text()

LEAVES = {
    "config",
    "cursors",
    "database_session",
    "env_file",
    "errors",
    "json_structure",
    "lenient_json",
    "limit_errors",
    "logs",
    "metric_labels",
    "metric_numbers",
    "metrics",
    "periodic",
    "revisions",
    "run_file",
    "runtime",
    "setting_values",
    "shutdown",
    "snapshot_file",
    "speedups",
    "version",
    "yielding",
}
# Package → the packages that it may import besides itself and the leaves. Leaves import only leaves.
ALLOWED: dict[str, set[str]] = {
    "leaf": set(),
    "db": set(),
    "upstream": set(),
    "sandbox": set(),
    "services.endpoints": set(),
    "services.pricing": set(),
    "services.providers": {"services.pricing", "upstream"},
    "services.models": {"services.providers", "services.pricing", "upstream"},
    "services.streaming": {"services.endpoints", "upstream"},
    "services.fireworks_client": {"services.streaming", "services.endpoints", "services.providers", "upstream"},
    "services.journal": {"db"},
    "services.quality": {"services.models", "services.providers", "db"},
    "services.aliases": {"services.models", "services.providers", "db"},
    "services.catalog_memory": {"services.models", "services.pricing", "services.providers", "db"},
    "services.repricing": {"services.catalog_memory", "services.pricing", "services.providers", "db"},
    "services.offers": {
        "services.inference",
        "services.models",
        "services.providers",
        "services.quality",
        "services.routing",
    },
    "services.routing": {
        "services.aliases",
        "services.endpoints",
        "services.limits",
        "services.models",
        "services.pricing",
        "services.providers",
        "services.quality",
    },
    "services.limits": {"db"},
    "services.idempotency": {"db"},
    "services.keys": {"db", "services.limits"},
    "services.administration": {"services.journal", "services.keys", "services.limits", "db"},
    "services.alias_administration": {
        "services.administration",
        "services.aliases",
        "services.endpoints",
        "services.inference",
        "services.models",
        "services.providers",
        "db",
    },
    "services.reports": {"db"},
    "services.bill": {"services.models", "services.pricing", "services.providers", "services.reports", "db"},
    "services.sessions": {"services.keys", "db"},
    "services.webhook": {"services.limits", "upstream", "db"},
    "services.traces": {"services.journal"},
    "services.inference": {
        "services.endpoints",
        "services.idempotency",
        "services.journal",
        "services.keys",
        "services.limits",
        "services.models",
        "services.pricing",
        "services.providers",
        "services.routing",
        "services.streaming",
        "services.traces",
        "upstream",
    },
    "services.health": {
        "services.inference",
        "services.journal",
        "services.keys",
        "services.limits",
        "services.models",
        "services.providers",
        "db",
    },
    "web": {"services.journal", "services.keys", "db"},
    "routes": {
        "services.bill",
        "services.alias_administration",
        "services.aliases",
        "services.administration",
        "services.catalog_memory",
        "services.endpoints",
        "services.health",
        "services.idempotency",
        "services.inference",
        "services.journal",
        "services.keys",
        "services.limits",
        "services.models",
        "services.offers",
        "services.providers",
        "services.reports",
        "services.routing",
        "services.streaming",
        "web",
    },
    "layout": {"web"},
    "docs_site": {"layout", "web"},
    "dashboard": {
        "services.bill",
        "layout",
        "routes",
        "services.administration",
        "services.alias_administration",
        "services.aliases",
        "services.endpoints",
        "services.health",
        "services.journal",
        "services.keys",
        "services.models",
        "services.offers",
        "services.providers",
        "services.reports",
        "services.routing",
        "services.sessions",
        "web",
        "db",
    },
    "openapi": {
        "services.bill",
        "routes",
        "services.alias_administration",
        "services.administration",
        "services.catalog_memory",
        "services.endpoints",
        "services.health",
        "services.journal",
        "services.models",
        "services.offers",
        "services.reports",
        "web",
        "db",
    },
    "server": {
        "services.bill",
        "services.aliases",
        "services.catalog_memory",
        "services.endpoints",
        "services.health",
        "services.inference",
        "services.journal",
        "services.keys",
        "services.limits",
        "services.models",
        "services.pricing",
        "services.quality",
        "services.reports",
        "services.sessions",
        "services.traces",
        "services.webhook",
    },
    "doctor": {"server", "services.journal", "services.providers", "upstream", "db"},
    "cli": {
        "layout",
        "services.bill",
        "doctor",
        "services.alias_administration",
        "services.administration",
        "services.endpoints",
        "services.journal",
        "services.keys",
        "services.providers",
        "services.reports",
        "services.repricing",
        "services.sessions",
        "services.webhook",
        "db",
    },
    "dev": {"services.keys", "services.sessions", "db"},
}
# The statements of a table are imported from the table's own module, because the face would repeat all of them.
# gunicorn's main process imports the modules of `server` one by one, and `doctor` imports `server`'s checks.
OPEN_PACKAGES = {"app.db", "app.server"}


@pytest.fixture
def app() -> Iterator[Flask]:
    """The application with default settings; tests only inspect its parts."""
    yield create_app(load_settings({}))
    use_settings(None)


def _package(module: str) -> str:
    """Returns the package of one of our modules, as ALLOWED names it; "top" may import everything."""
    parts = module.split(".")[1:]
    if not parts:
        return "top"
    if parts[0] in LEAVES:
        return "leaf"
    name = ".".join(parts[:2]) if parts[0] == "services" else parts[0]
    return name if name in ALLOWED else "top"


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module in {"app", "app.services"}:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return found


def _imports_of_ours(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (own package, imported module) for each import of another package of the project."""
    package = _package(_module_name(path))
    for imported in _imports(path):
        if imported.startswith("app.") and _package(imported) != package:
            yield package, imported


def test_every_package_has_its_directions() -> None:
    modules = {_module_name(path) for path in MODULES} - {"app", "app.services"}
    assert {module for module in modules if _package(module) == "top"} == set()


def test_imports_only_go_down() -> None:
    wrong = [
        f"{_module_name(path)} imports {imported}"
        for path in MODULES
        for package, imported in _imports_of_ours(path)
        if package != "top" and _package(imported) not in {"leaf", *ALLOWED[package]}
    ]
    assert wrong == []


def test_no_package_imports_one_that_imports_it() -> None:
    needs = {package: set(others) for package, others in ALLOWED.items()}
    while needs:
        free = {package for package, others in needs.items() if not others & needs.keys()}
        assert free, f"these import each other in a circle: {sorted(needs)}"
        needs = {package: others for package, others in needs.items() if package not in free}


def test_modules_of_one_package_do_not_import_each_other_in_circles() -> None:
    needs = {_module_name(path): _imports(path) for path in MODULES if path.name != "__init__.py"}
    needs = {name: {other for other in imported if other in needs} for name, imported in needs.items()}
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f"there is a circle among: {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in free}


def test_others_import_the_face_of_a_package() -> None:
    packages = {_module_name(path) for path in MODULES if path.name == "__init__.py"} - {"app", "app.services"}
    wrong = [
        f"{_module_name(path)} imports {imported}"
        for path in MODULES
        for _, imported in _imports_of_ours(path)
        if imported not in packages and (parent := imported.rpartition(".")[0]) in packages - OPEN_PACKAGES and parent
    ]
    assert wrong == []


def test_faces_are_short_and_have_no_logic() -> None:
    plain = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
    wrong = []
    for path in MODULES:
        if path.name != "__init__.py" or _module_name(path) in {"app", "app.routes", "app.cli", "app.sandbox"}:
            continue  # The factory, the table of routes, the list of commands, and the sandbox's description.
        lines, body = path.read_text().count("\n"), _parse(path).body
        if lines >= 40:
            wrong.append(f"{_module_name(path)} has {lines} lines")
        if not all(isinstance(node, plain) for node in body):
            wrong.append(f"{_module_name(path)} has logic")
        imported = {
            alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        promised = {
            name.value
            for node in body
            if isinstance(node, ast.Assign)
            for name in ast.walk(node.value)
            if isinstance(name, ast.Constant)
        }
        wrong += [f"{_module_name(path)} promises {name}" for name in promised - imported]
    assert wrong == []


HOMES = {
    "requests": {"app.upstream"},
    "urllib3": {"app.upstream"},
    "sqlalchemy": {"app.db"},
    "psycopg2": {"app.dev", "app.server.database_addresses"},
    "alembic": {"app.db"},
    "gevent": {
        "app.services.inference.cancellation",
        "app.upstream",
        "app.db.connection_check",
        "app.db.errors",
        "app.server",
    },
    "flask": {"app", "app.web", "app.routes", "app.cli", "app.layout", "app.dashboard", "app.docs_site", "app.openapi"},
    "jinja2": {"app.layout"},
    "markupsafe": {"app.layout", "app.dashboard", "app.docs_site"},
    "markdown_it": {"app.docs_site"},
    "prometheus_client": {"app.metrics"},
    "gunicorn": {"app.server", "app.sandbox"},
    "werkzeug": {"app.web"},
    "certifi": {"app.upstream"},
    "sseclient": {"app.services.fireworks_client"},
    "genai_prices": {"app.services.pricing"},
    "dotenv": {"app.env_file"},
    "psutil": {"app.dev"},
    "cryptography": {"app.services.idempotency"},
    "opentelemetry": {"app.services.traces"},
}


# Packages whose maps leave out one kind of module: the commands, and the providers with their parts.
SHORT_MAPS = {"app.cli", "app.services.providers"}


def test_the_map_of_a_package_names_its_modules() -> None:
    wrong = {}
    for face in MODULES:
        docstring = (ast.get_docstring(_parse(face)) or "") if face.name == "__init__.py" else ""
        named = set(re.findall(r"(?<![\w/.])(\w+)\.py", docstring))
        # "messages.py … _body" also names messages_body.py.
        parts = {name + part for name in named for part in re.findall(r"(?<!\w)_[a-z]+", docstring)}
        modules = {path.stem for path in face.parent.glob("*.py")} - {"__init__"}
        unknown, missing = named - modules, modules - named - parts - {"__main__"}
        if named and (lost := unknown if _module_name(face) in SHORT_MAPS else unknown | missing):
            wrong[_module_name(face)] = lost
    assert wrong == {}


def test_each_library_has_its_home() -> None:
    strangers = []
    for path in MODULES:
        name = _module_name(path)
        for imported in _imports(path):
            homes = HOMES.get(imported.split(".")[0])
            if homes and not any(_is_within(name, home) for home in homes):
                strangers.append(f"{name} imports {imported}")
    assert strangers == []


def _is_within(name: str, home: str) -> bool:
    return name == home or (home != "app" and name.startswith(home + "."))


def test_nothing_is_allowed_that_nobody_needs() -> None:
    edges = {(package, _package(imported)) for path in MODULES for package, imported in _imports_of_ours(path)}
    assert {(package, other) for package, others in ALLOWED.items() for other in others} - edges == set()
    importers: dict[str, set[str]] = {library: set() for library in HOMES}
    for path in MODULES:
        for library in {imported.split(".")[0] for imported in _imports(path)} & HOMES.keys():
            importers[library].add(_module_name(path))
    homes = [(library, home) for library, homes in HOMES.items() for home in homes]
    assert [each for each in homes if not any(_is_within(name, each[1]) for name in importers[each[0]])] == []


# Module → private names of libraries that it uses. docs/design.md says what for, in "Library internals". Check them
# again after an upgrade of the library.
PRIVATE = {
    "app.metric_numbers": {"_buckets", "_sum", "_upper_bounds", "_value"},
    "app.metrics": {"_m", "_positions"},
    "app.sandbox.samples.patterns": {"_parser"},
    "app.server.request_head": {"_make_early_hints_callback", "_peer_trusted_for_forwarded"},
    "app.server.request_reading": {"_read_reader"},
    "app.server.worker_class": {"_peer_is_trusted_proxy"},
    "app.upstream.adapter": {"_get_conn"},
    "app.upstream.connection_pool": {"_read"},
    "app.upstream.first_bytes": {"_read_event", "_sock"},
    "app.web.application": {"_cv_app", "_cv_request", "_list", "_on_close", "_status", "_status_code"},
    "app.web.hooks": {"_list"},
}
# Names that only look private: methods of named tuples and of rows, and `os._exit`.
_NOT_PRIVATE = {"_asdict", "_exit", "_fields", "_mapping", "_replace"}


def _find_private_names(tree: ast.Module) -> set[str]:
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
        and not isinstance(node.value, ast.Call)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("app"):
            found.update(alias.name for alias in node.names)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} | _NOT_PRIVATE
    return {name for name in found - own if name.startswith("_") and not name.startswith("__")}


def test_private_names_of_libraries_are_used_only_where_listed() -> None:
    found = {_module_name(path): _find_private_names(_parse(path)) for path in MODULES}
    assert {module: names for module, names in found.items() if names} == PRIVATE


def test_modules_and_functions_are_short_and_documented() -> None:
    wrong = []
    for path in MODULES:
        source, name = path.read_text(), _module_name(path)
        tree = _parse(path)
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


# An entry of a docstring's section, such as "name: text" or "first, second: text".
ENTRY = re.compile(r"^( *)(\w+(?:, \w+)*): ", re.MULTILINE)


def _find_damaged_entries(docstring: str, declared: set[str]) -> set[str]:
    """Returns the declared names that are explained outside any section, or twice in the whole docstring."""
    entries = [(name, indent) for indent, names in ENTRY.findall(docstring) for name in names.split(", ")]
    counts = Counter(name for name, _ in entries)
    return {name for name, indent in entries if name in declared and (not indent or counts[name] > 1)}


def test_docstrings_explain_each_argument_once_and_in_a_section() -> None:
    assert _find_damaged_entries("Joins.\n\nname: its name.\n    name: the name.", {"name"}) == {"name"}
    wrong = {}
    for path in MODULES:
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.FunctionDef):
                declared = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
            elif isinstance(node, ast.ClassDef):
                fields = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
                declared = {field.id for field in fields if isinstance(field, ast.Name)}
            else:
                continue
            if damaged := _find_damaged_entries(ast.get_docstring(node) or "", declared):
                wrong[f"{_module_name(path)}.{node.name}"] = damaged
    assert wrong == {}


def test_what_checks_does_not_raise() -> None:
    wrong = [
        f"{_module_name(path)}.{node.name}"
        for path in MODULES
        for node in ast.walk(_parse(path))
        if isinstance(node, ast.FunctionDef) and node.name.lstrip("_").startswith("check_")
        if not node.name.endswith("_command") and any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]
    assert wrong == []  # `validate_…` returns a checked value or raises, `raise_if_…` raises.


# Participles that do not end in -ed, and the last word of "handed over".
PARTICIPLES = {"begun", "cut", "kept", "left", "lost", "made", "over", "overrun"}


def test_events_of_the_log_are_a_noun_and_a_participle() -> None:
    events = {
        text.value
        for path in MODULES
        for call in ast.walk(_parse(path))
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) in {"log_event", "log_life"} and call.args
        for text in ast.walk(call.args[0])
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }
    assert len(events) > 60
    words = {event: event.rpartition("_") for event in events - {"request"}}
    assert [event for event, (noun, _, _) in words.items() if not re.fullmatch("[a-z]*(_[a-z]+)*", noun)] == []
    assert [event for event, (_, _, last) in words.items() if not last.endswith("ed") and last not in PARTICIPLES] == []


def test_the_version_is_the_projects() -> None:
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()


def test_readme_names_every_setting() -> None:
    assert [name for name in setting_names() if f"`{name}`" not in README] == []


def test_readme_names_every_route(app: Flask) -> None:
    rules = {re.sub(r"<(?:\w+:)?(\w+)>", "<>", rule.rule) for rule in app.url_map.iter_rules()}
    pages = (ROOT / "docs/dashboard.md").read_text()
    documented = set(re.sub(r"<[^>]*>", "<>", README + pages).replace("`", " ").split())
    assert sorted(rule for rule in rules if rule not in documented) == []


def test_the_pages_name_every_command(app: Flask) -> None:
    commands = set()
    for group in app.cli.commands.values():
        commands.update(f"{group.name} {name}" for name in getattr(group, "commands", {}))
    groups = {
        "activity",
        "aliases",
        "audit",
        "bill",
        "budgets",
        "dashboard",
        "db",
        "groups",
        "holders",
        "keys",
        "limits",
        "webhook",
    }
    ours = {command for command in commands if command.split()[0] in groups}
    pages = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert sorted(command for command in ours if command not in pages) == []


def test_every_route_asks_for_a_key_or_is_known_to_be_open() -> None:
    assert {blueprint.name for blueprint, access in BLUEPRINTS if access == "open"} == {"catalog", "health"}
    assert {blueprint.name for blueprint, access in BLUEPRINTS if access == "operator"} == {"metrics"}
    assert {blueprint.name for blueprint, access in BLUEPRINTS if access == "public_stats"} == {
        "catalog_changes",
        "offers",
        "stats",
    }
    of_operators = {blueprint.name for blueprint, access in BLUEPRINTS if access == "operators_key"}
    assert of_operators == {"aliases", "bill", "diagnostics", "keys", "holders", "groups", "budgets", "workers"}


def test_the_project_holds_no_key_and_no_machine_path() -> None:
    shapes = re.compile(r"\b(fw|rc|cpk|gw)_[A-Za-z0-9]{16,}|/root/|/home/\w+/")
    for path in [*MODULES, ROOT / ".env", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert not shapes.search(path.read_text()), path


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    source = (ROOT / "app/metrics.py").read_text() + "".join(
        path.read_text() for path in (ROOT / "app/services/health").glob("*gauges.py")
    )
    defined = set(re.findall(r'"(gateway_\w+)"', source))
    documented = set(re.findall(r"^\| `(gateway_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert defined == documented
