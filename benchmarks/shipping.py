"""Measures how many rows one worker ships: `python -m benchmarks.shipping ROWS`, with DATABASE_URL and JOURNAL_DIR set.

It records requests as the gateway does, faster than they can be shipped, and waits until all are in PostgreSQL.
"""

from __future__ import annotations

import json
import sys
import time

from app.runtime import get_component
from app.services.journal import Journal, start_journal, stop_journal

_PATIENCE_S = 300.0


def main(rows: int) -> None:
    """Prints a line of JSON: rows recorded and shipped per second."""
    start_journal()
    began_s = time.monotonic()
    for _ in range(rows):
        _record_request(get_component(Journal))
    recorded_s = time.monotonic() - began_s
    if not stop_journal(_PATIENCE_S):
        sys.exit(f"Not all rows were shipped within {_PATIENCE_S:g} s.")
    shipped_s = time.monotonic() - began_s
    print(json.dumps({"recorded_per_s": rows / recorded_s, "shipped_per_s": rows / shipped_s}))


def _record_request(journal: Journal) -> None:
    record = journal.begin("benchmark", "/v1/chat/completions")
    record.gateway, record.model_requested = "fireworks", "accounts/fireworks/models/deepseek-v3p1"
    record.model_served = record.model_requested
    journal.write_start(record)
    record.prompt_tokens, record.completion_tokens, record.usage_source = 12, 38, "provider"
    record.cost_usd, record.cost_kind = "0.0000705", "exact"
    record.outcome, record.status, record.duration_ms = "ok", 200, 1.0
    journal.write_final(record)


if __name__ == "__main__":
    main(int(sys.argv[1]))
