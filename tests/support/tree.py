"""Copies the project, so that processes started by tests do not read a developer's `.env.local` or write to `var/`."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# Not part of the project, or not run and slow to copy. Byte code is copied, which saves compiling it again.
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".env.local", "var", "node_modules", "tests", "docs", ".*_cache", ".hypothesis"
)


def copy_tree(destination: Path) -> Path:
    """Copies what a running gateway needs to `destination`, which must not exist yet, and returns it.

    The copy has its own `.env`, no `.env.local` and an empty `var/`.
    """
    shutil.copytree(ROOT, destination, ignore=_LEFT_OUT)
    return destination
