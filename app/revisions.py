"""The migrations of this code, found without the libraries that apply them.

A revision's id is the number at the start of its file name. So the checks before the start and a worker know the newest
one without importing SQLAlchemy or Alembic, which takes longer than all their other work.
"""

from __future__ import annotations

from app.config import ROOT

MIGRATIONS = ROOT / "migrations"


def get_head() -> str:
    """Returns the newest revision among the migration files, for instance "0003"."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))
