"""The gateway with recording taken out, to measure what recording costs; it is served by the benchmark alone.

Requests are still checked, counted in the metrics and logged. What is missing is the record: no row is encoded, nothing
is written to the journal, and nothing goes to PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from app.services.journal import Journal
from app.services.journal.recorder import Recorder


def _do_nothing(*_: Any) -> None:
    return None


Journal.write_start = Journal.write_final = _do_nothing  # type: ignore[method-assign]
Recorder.count_begun = _do_nothing  # type: ignore[method-assign]

from wsgi import app  # noqa: E402

__all__ = ["app"]
