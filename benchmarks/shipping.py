"""Measures how fast workers ship rows: `python -m benchmarks.shipping ROWS`, with DATABASE_URL and JOURNAL_DIR set.

    --writers 64    the number of processes, each with a journal of its own, like workers of several hosts
    --keys 200      the number of keys that the requests use in turn, and four times the number of models

Each process records requests as the gateway does, faster than they can be shipped, and waits until all of its rows are
in PostgreSQL. All processes start at the same moment. The rate is all rows over the time until the last process has
finished, and includes the folding of sums meanwhile. The processes run without gevent, so they block where a worker
would serve requests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from app.runtime import get_component
from app.services.journal import Journal, start_journal, stop_journal

_PATIENCE_S = 300.0


def main() -> None:
    """Prints a line of JSON: rows recorded and shipped per second."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shipping")
    parser.add_argument("rows", type=int)
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writers == 1:
        print(json.dumps(_ship(options.rows, options.keys, wait=options.child)))
        return
    rows = options.rows // options.writers
    command = [sys.executable, "-m", "benchmarks.shipping", str(rows), "--keys", str(options.keys), "--child"]
    writers = [_start(command, number) for number in range(options.writers)]
    for writer in writers:
        _read(writer)  # Until it is ready.
    began_s = time.monotonic()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    recorded = [json.loads(_read(writer))["recorded_per_s"] for writer in writers]
    shipped_per_s = rows * options.writers / (time.monotonic() - began_s)
    print(json.dumps({"recorded_per_s": sum(recorded), "shipped_per_s": shipped_per_s}))


def _start(command: list[str], number: int) -> subprocess.Popen[str]:
    # A directory for each process, as on separate hosts, so that none adopts the rows of one that has finished.
    environment = os.environ | {"JOURNAL_DIR": os.path.join(os.environ["JOURNAL_DIR"], str(number))}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _read(writer: subprocess.Popen[str]) -> str:
    assert writer.stdout is not None
    line = writer.stdout.readline()
    return line if line else sys.exit("A writer failed; its error is above.")


def _ship(rows: int, keys: int, *, wait: bool) -> dict[str, float]:
    start_journal()
    if wait:
        print("ready", flush=True)
        sys.stdin.readline()
    began_s = time.monotonic()
    for number in range(rows):
        _record_request(get_component(Journal), number % keys)
    recorded_s = time.monotonic() - began_s
    if not stop_journal(_PATIENCE_S):
        sys.exit(f"Not all rows were shipped within {_PATIENCE_S:g} s.")
    shipped_s = time.monotonic() - began_s
    return {"recorded_per_s": rows / recorded_s, "shipped_per_s": rows / shipped_s}


def _record_request(journal: Journal, key: int) -> None:
    record = journal.begin(f"benchmark-{key}", "/v1/chat/completions")
    record.gateway, record.model_requested = "fireworks", f"accounts/fireworks/models/deepseek-v3p1-{key // 4}"
    record.model_served = record.model_requested
    journal.write_start(record)
    record.prompt_tokens, record.completion_tokens, record.usage_source = 12, 38, "provider"
    record.cost_usd, record.cost_kind = "0.0000705", "exact"
    record.outcome, record.status, record.duration_ms = "ok", 200, 1.0
    journal.write_final(record)


if __name__ == "__main__":
    main()
