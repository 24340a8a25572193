"""The compiled path for events is used where it is installed, belongs to this code, and is not switched off."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import load_settings
from app.runtime import use_settings
from app.server.boot_checks import BOOT_CHECKS
from app.speedups import FACE, find_speedups, get_speedups
from tests.support.tree import ROOT

DIGEST = hashlib.sha256((ROOT / "speedups" / "gateway_speedups.c").read_bytes()).hexdigest()
OTHER_SOURCE = "was built from another source"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for a module of the same name, which hides an installed one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "gateway_speedups", raising=False)
    find_speedups.cache_clear()
    yield tmp_path
    find_speedups.cache_clear()
    sys.modules.pop("gateway_speedups", None)
    use_settings(None)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (f"FACE, SOURCE_DIGEST = {FACE}, '{DIGEST}'", None),
        (f"FACE, SOURCE_DIGEST = {FACE}, '{DIGEST[::-1]}'", OTHER_SOURCE),
        (f"FACE = {FACE}", OTHER_SOURCE),  # A module built before there was a digest.
        (f"FACE = {FACE + 1}", f"belongs to other code (face {FACE + 1}, not {FACE})"),
        ("", f"belongs to other code (face None, not {FACE})"),
        ("raise ImportError('undefined symbol: Py_Gone')", "cannot be loaded (undefined symbol: Py_Gone)"),
    ],
)
def test_a_module_is_used_if_it_belongs_to_this_code(place: Path, source: str, problem: str | None) -> None:
    (place / "gateway_speedups.py").write_text(source)
    importlib.invalidate_caches()
    for wanted in ("true", "false"):
        settings = load_settings({"COMPILED_EVENTS": wanted})
        use_settings(settings)
        found = BOOT_CHECKS["speedups"]()
        assert (get_speedups(settings) is not None) is (wanted == "true" and problem is None)
        if wanted == "false" or problem is None:
            assert found is None
        else:
            assert found is not None and found.blocks is None and problem in found.text


def test_where_the_source_is_not_there_the_number_decides(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.speedups._SOURCE", place / "gateway_speedups.c")
    (place / "gateway_speedups.py").write_text(f"FACE, SOURCE_DIGEST = {FACE}, ''")
    importlib.invalidate_caches()
    assert find_speedups().problem is None


def test_its_absence_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gateway_speedups", None)  # As if it were not installed.
    find_speedups.cache_clear()
    assert find_speedups() == (None, None)
    find_speedups.cache_clear()
