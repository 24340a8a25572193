"""The gateway without recording, to measure the cost of recording; only the benchmark serves it.

Requests are still checked, counted in the metrics and logged, but not recorded: no row is encoded, and nothing is
written to the journal or to PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from app.services.journal import Journal
from app.services.journal.recorder import Recorder


def _do_nothing(*_: Any) -> None:
    return None


for _kind, _name in ((Journal, "write_start"), (Journal, "write_final"), (Recorder, "count_begun")):
    getattr(
        _kind, _name
    )  # Raises AttributeError if a method was renamed; otherwise the benchmark would measure nothing.
    setattr(_kind, _name, _do_nothing)

from wsgi import app  # noqa: E402

__all__ = ["app"]
