"""Copies the project's files, so that no test reads a developer's `.env.local` or writes to `var/`."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# Files that are not part of the project, or are not run and slow to copy. Byte code is copied, to save compiling.
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".env.local", "var", "node_modules", "tests", ".*_cache", ".hypothesis"
)


def copy_tree(destination: Path) -> Path:
    """Copies the files of a running gateway to `destination`, which must not exist yet, and returns it.

    The copy has its own `.env`, no `.env.local` and an empty `var/`.
    """
    shutil.copytree(ROOT, destination, ignore=_LEFT_OUT)
    return destination
