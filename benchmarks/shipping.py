"""Measures how many rows one worker ships: `python -m benchmarks.shipping ROWS`, with DATABASE_URL and JOURNAL_DIR set.

It records requests as the gateway does, faster than they can be shipped, and waits until all are in PostgreSQL.
"""

from __future__ import annotations

import json
import sys
import time

from app.services.inference.activity import begin_activity
from app.services.journal import start_journal, stop_journal

_PATIENCE_S = 300.0


def main(rows: int) -> None:
    """Prints a line of JSON: rows recorded and shipped per second."""
    start_journal()
    began_s = time.monotonic()
    for _ in range(rows):
        _record_request()
    recorded_s = time.monotonic() - began_s
    if not stop_journal(_PATIENCE_S):
        sys.exit("Not all rows were shipped.")
    shipped_s = time.monotonic() - began_s
    print(json.dumps({"recorded_per_s": rows / recorded_s, "shipped_per_s": rows / shipped_s}))


def _record_request() -> None:
    activity = begin_activity("benchmark", "/v1/chat/completions")
    row = activity.row
    row.gateway, row.model_requested = "fireworks", "accounts/fireworks/models/deepseek-v3p1"
    row.model_served = row.model_requested
    activity.dispatch()
    row.prompt_tokens, row.completion_tokens, row.usage_source = 12, 38, "provider"
    row.cost_usd, row.cost_kind = "0.0000705", "exact"
    activity.finish("ok", 200)


if __name__ == "__main__":
    main(int(sys.argv[1]))
