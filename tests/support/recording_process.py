"""A process that records requests as a worker does, under gevent, and runs one command for each line of its input.

A test starts it with `RecordingProcess`. It calls no provider. Instead it appends the id of each request that it would
send to a file; these are the requests that a provider would have counted.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# How a request ends: after a provider responded or failed, or rejected before it is sent to one.
ENDINGS = ("ok", "client_gone", "upstream_error", "rejected")


class RecordingProcess:
    """The process, as a test starts and commands it.

    Args:
        place: the directory of its journal, its log, and the file of the requests that its provider counted.
        database_url: the database it ships to.
        settings: more of its environment.
        name: part of the names of its files, different for each process that shares the place.
    """

    def __init__(
        self, place: Path, database_url: str, settings: Mapping[str, str] | None = None, name: str = "0"
    ) -> None:
        self.counted_file = place / f"counted-{name}"
        self.refused_file = place / f"refused-{name}"
        self.log_file = place / f"log-{name}"
        environment = {
            "PATH": os.environ["PATH"],
            "JOURNAL_DIR": str(place / "journal"),
            "DATABASE_URL": database_url,
            "COUNTED_FILE": str(self.counted_file),
            "REFUSED_FILE": str(self.refused_file),
            **(settings or {}),
        }
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.recording_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment,
            )

    def __enter__(self) -> RecordingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str, *arguments: float) -> Any:
        """Sends a command, waits for its result and returns it."""
        self.send(command, *arguments)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process ended:\n{self.log_file.read_text()}"
        return json.loads(line)

    def send(self, command: str, *arguments: float) -> None:
        """Sends a command without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Closes its input, which ends it without stopping its journal, and waits for its end."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # It has died during a command.
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)

    def counted(self) -> set[str]:
        """Returns the ids of the requests that its provider counted."""
        return _ids(self.counted_file)

    def refused(self) -> set[str]:
        """Returns the ids of the requests that were rejected before they were sent to a provider."""
        return _ids(self.refused_file)


def _ids(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


class _Commands:
    """The commands; each public method is one."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._counted = os.open(os.environ["COUNTED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._refused = os.open(os.environ["REFUSED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def start(self) -> None:
        """Starts the journal, as a worker does before its first request; later calls do nothing."""
        from app.services.journal import start_journal

        start_journal()

    def record(self, count: int) -> int:
        """Records `count` requests with all kinds of endings, and lets other greenlets run after each."""
        import gevent

        for _ in range(count):
            self._record_one()
            gevent.sleep(0)
        return count

    def record_quickly(self, count: int) -> int:
        """Records `count` requests without letting the shipper run."""
        for _ in range(count):
            self._record_one()
        return count

    def _record_one(self) -> None:
        from app.errors import Unavailable

        record = self._begin()
        outcome = random.choice(ENDINGS)
        if outcome != "rejected":
            try:
                self._send(record)
            except Unavailable as error:
                self._finish(record, "rejected", error.status)
                return
        record.prompt_tokens, record.completion_tokens = 10, 20
        record.cost_usd, record.cost_kind = "0.000012", "exact"
        self._finish(record, outcome, 200 if outcome == "ok" else 500)

    def _begin(self) -> Any:
        from app.runtime import get_component
        from app.services.journal import Journal

        self.start()
        record = get_component(Journal).begin("env", "/v1/chat/completions")
        record.gateway, record.model_served = "fireworks", "accounts/fireworks/models/llama"
        return record

    def _send(self, record: Any) -> None:
        from app.runtime import get_component
        from app.services.journal import Journal

        get_component(Journal).write_start(record)
        os.write(self._counted, f"{record.request_id}\n".encode())

    def _finish(self, record: Any, outcome: str, status: int) -> None:
        from app.runtime import get_component
        from app.services.journal import Journal

        record.outcome, record.status = outcome, status
        get_component(Journal).write_final(record)
        if outcome == "rejected":
            os.write(self._refused, f"{record.request_id}\n".encode())

    def hold(self, count: int) -> list[str]:
        """Begins `count` requests, sends them to the provider, and leaves them in flight; returns the ids of all."""
        for _ in range(count):
            record = self._begin()
            self._send(record)
            self._held.append(record)
        return [record.request_id for record in self._held]

    def release(self) -> int:
        """Ends the requests that `hold` began."""
        for record in self._held:
            self._finish(record, "ok", 200)
        count, self._held = len(self._held), []
        return count

    def begin_only(self, count: int) -> None:
        """Begins `count` requests without sending or ending them."""
        for _ in range(count):
            self._begin()

    def flood(self, streams: int) -> None:
        """Records requests for ever, `streams` at a time, each of some milliseconds."""
        import gevent

        def run() -> None:
            while True:
                record = self._begin()
                gevent.sleep(random.random() * 0.002)
                if random.random() < 0.1:
                    self._finish(record, "rejected", 400)
                    continue
                self._send(record)
                gevent.sleep(random.random() * 0.01)
                self._finish(record, random.choice(ENDINGS[:3]), 200)

        for _ in range(streams):
            gevent.spawn(run)

    def record_nul(self) -> str:
        """Records a request with texts that PostgreSQL does not accept unchanged; returns its id."""
        record = self._begin()
        record.finish_reason, record.upstream_request_id = "a\0b", "\ud800"
        record.model_requested = "x" * 1_000_000
        return self._send_and_finish(record, "ok")

    def record_unacceptable(self) -> str:
        """Records a request with an outcome and a number that the database refuses; returns its id."""
        record = self._begin()
        record.prompt_tokens, record.completion_tokens = 10, 10**30
        record.cost_usd, record.cost_kind = "1.5", "exact"
        return self._send_and_finish(record, "no such outcome")

    def record_status(self, status: int) -> str:
        """Records a request that ended with this status; returns its id."""
        record = self._begin()
        self._send(record)
        self._finish(record, "ok", status)
        request_id: str = record.request_id
        return request_id

    def _send_and_finish(self, record: Any, outcome: str) -> str:
        self._send(record)
        self._finish(record, outcome, 200)
        request_id: str = record.request_id
        return request_id

    def status(self) -> dict[str, Any]:
        """Returns the result of `get_journal_status`."""
        import msgspec

        from app.services.journal import get_journal_status

        status: dict[str, Any] = msgspec.to_builtins(get_journal_status())
        return status

    def integrity(self) -> dict[str, Any]:
        """Returns the result of `select_integrity_report`."""
        import msgspec

        from app.services.journal import select_integrity_report

        integrity: dict[str, Any] = msgspec.to_builtins(select_integrity_report())
        return integrity

    def memory_bytes(self) -> int:
        """Returns the resident set size."""
        import psutil

        return int(psutil.Process().memory_info().rss)

    def longest_stall_s(self, seconds: float) -> float:
        """Returns the longest time within the next `seconds` that this greenlet waited for its turn, in seconds."""
        import time

        import gevent

        longest_s, last_s = 0.0, time.monotonic()
        end_s = last_s + seconds
        while last_s < end_s:
            gevent.sleep(0.001)
            now_s = time.monotonic()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s
        return longest_s

    def stop(self, patience_s: float) -> bool:
        """Stops the journal, as a worker does at its end."""
        from app.services.journal import stop_journal

        return stop_journal(patience_s)


def main() -> None:
    """Runs commands until the input ends."""
    from gevent import monkey

    monkey.patch_all()
    from gevent.fileobject import FileObject
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()
    commands = _Commands()
    for line in FileObject(sys.stdin.buffer, "rb"):
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(commands, name)(*arguments)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
