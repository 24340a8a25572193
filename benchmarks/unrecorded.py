"""The gateway with recording taken out, to measure what recording costs; it is served by the benchmark alone.

Requests are still checked, counted in the metrics and logged. What is missing is the record: no row is encoded, nothing
is written to the journal, and nothing goes to PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from app.services.journal.lifecycle import record as activity
from app.services.journal.recorder import Recorder


def _do_nothing(*_: Any) -> None:
    return None


def _encode_nothing(row: activity.ActivityRow) -> bytes:
    return b""


for _name in ("begin", "start", "end"):
    setattr(Recorder, _name, _do_nothing)
activity._encode_row = _encode_nothing

from wsgi import app  # noqa: E402

__all__ = ["app"]
