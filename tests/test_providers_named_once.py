"""A provider's name occurs in its own files and its settings, and nowhere else in the gateway's code and pages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

from app.config import ROOT, provider_names

# Where names may occur: the providers' files, their settings, code that plays or starts them, and documented functions.
HOMES = (
    "app/config.py",
    "app/dev/",
    "app/sandbox/",
    "app/services/fireworks_client.py",
    "app/services/models/__init__.py",
    "app/services/models/fireworks.py",
    *(f"app/services/providers/{name}{end}" for name in provider_names() for end in (".py", "_")),
)

NAMES = re.compile("|".join(provider_names()), re.IGNORECASE)
# The import of a part of a provider, such as `app.services.providers.x_prices`.
_PART = re.compile(rf"services\.providers(?:\.| import )({'|'.join(provider_names())})_\w+")

# From Python 3.12 on, the texts of an f-string are separate tokens.
_CODE = {tokenize.NAME, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def find_names(source: str) -> Iterator[str]:
    """Yields the identifiers and strings that hold a provider's name; comments and docstrings may."""
    documentation = _get_docstring_lines(source)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _CODE and token.start[0] not in documentation and NAMES.search(token.string):
            yield f"{token.start[0]}: {token.string}"


def _get_docstring_lines(source: str) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            text = node.body[0]
            lines.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return lines


def _find_in(name: str) -> list[str]:
    return [f"{name}:{found}" for found in find_names((ROOT / name).read_text())]


def test_no_code_outside_of_their_homes_names_a_provider() -> None:
    names = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "app").rglob("*.py"))]
    others = [name for name in names if not name.startswith(HOMES)]

    assert len(others) > 50
    assert [found for name in others for found in _find_in(name)] == []


def test_no_page_names_a_provider() -> None:
    pages = sorted((ROOT / "app").rglob("*.html"))

    assert len(pages) > 20
    assert [f"{page.name}: {found[0]}" for page in pages for found in NAMES.finditer(page.read_text())] == []


def test_only_a_providers_own_file_imports_its_parts() -> None:
    imports = [
        (str(path.relative_to(ROOT)), f"app/services/providers/{found[1]}.py")
        for path in (ROOT / "app").rglob("*.py")
        for found in _PART.finditer(path.read_text())
    ]

    assert imports
    assert [importer for importer, home in imports if importer != home] == []


def test_the_search_reads_code_and_no_comments() -> None:
    source = '''
"""Fireworks in a docstring."""

FIREWORKS = 1  # Chutes in a comment


def ask_chutes(name: str) -> str:
    """Asks DeepInfra."""
    return f"featherless/{name}"
'''
    found = list(find_names(source))

    assert found[:2] == ["4: FIREWORKS", "7: ask_chutes"]
    assert len(found) == 3 and found[2].startswith("9: ") and "featherless/" in found[2]


def test_there_are_providers_to_look_for() -> None:
    assert provider_names() == ["fireworks", "featherless", "deepinfra", "chutes"]
    assert all((ROOT / f"app/services/providers/{name}.py").is_file() for name in provider_names())
