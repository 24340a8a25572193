"""A process that records activity as a worker does, under gevent, and obeys one command for each line it is sent.

A test starts it with `RecordingProcess`. It asks no provider; where a request would reach one it appends the
request's id to a file, which is what a provider would have counted.
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

# A request asks a provider, is refused before, or is still under way when the process dies.
ENDINGS = ("ok", "client_gone", "upstream_error", "rejected")


class RecordingProcess:
    """One such process.

    Args:
        place: where it keeps its journal, its log, and the file of what its provider counted.
        database_url: the database it ships to.
        settings: more of its environment.
        name: tells its files from those of others that share the place.
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
        """Sends a command, waits until it is carried out, and returns its answer."""
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
        """Ends it with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Closes its input, upon which it ends without stopping its journal, and waits for that."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # It is dead, and a command was under way.
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)

    def counted(self) -> set[str]:
        """Returns the ids of the requests that its provider counted."""
        return _ids(self.counted_file)

    def refused(self) -> set[str]:
        """Returns the ids of the requests that ended before a provider was asked."""
        return _ids(self.refused_file)


def _ids(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


class _Commands:
    """What the process can be told to do; each method is a command."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._counted = os.open(os.environ["COUNTED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._refused = os.open(os.environ["REFUSED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def start(self) -> None:
        """Starts the journal, as a worker does before its first request; later calls do nothing."""
        from app.services.journal import start_journal

        start_journal()

    def record(self, count: int) -> int:
        """Records so many requests with every kind of ending, pausing for others as a request would."""
        import gevent

        for _ in range(count):
            self._one()
            gevent.sleep(0)
        return count

    def record_quickly(self, count: int) -> int:
        """Records so many requests without ever letting the shipper run."""
        for _ in range(count):
            self._one()
        return count

    def _one(self) -> None:
        from app.errors import Unavailable

        activity = self._begin()
        outcome = random.choice(ENDINGS)
        if outcome != "rejected":
            try:
                activity.dispatch()
            except Unavailable as error:
                activity.finish("rejected", error.status)
                os.write(self._refused, f"{activity.request_id}\n".encode())
                return
            os.write(self._counted, f"{activity.request_id}\n".encode())
        activity.row.prompt_tokens, activity.row.completion_tokens = 10, 20
        activity.row.cost_usd, activity.row.cost_kind = "0.000012", "exact"
        activity.finish(outcome, 200 if outcome == "ok" else 500)
        if outcome == "rejected":
            os.write(self._refused, f"{activity.request_id}\n".encode())

    def _begin(self) -> Any:
        from app.services.inference.activity import begin_activity

        self.start()
        activity = begin_activity("env", "/v1/chat/completions")
        activity.row.gateway, activity.row.model_served = "fireworks", "accounts/fireworks/models/llama"
        return activity

    def hold(self, count: int) -> list[str]:
        """Begins so many requests, sends them to the provider, and leaves them under way."""
        for _ in range(count):
            activity = self._begin()
            activity.dispatch()
            os.write(self._counted, f"{activity.request_id}\n".encode())
            self._held.append(activity)
        return [activity.request_id for activity in self._held]

    def release(self) -> int:
        """Ends the requests that `hold` began."""
        for activity in self._held:
            activity.finish("ok", 200)
        count, self._held = len(self._held), []
        return count

    def begin_only(self, count: int) -> None:
        """Begins so many requests and takes them no further."""
        for _ in range(count):
            self._begin()

    def flood(self, streams: int) -> None:
        """Records without end, `streams` requests at a time, each under way for a moment."""
        import gevent

        def run() -> None:
            while True:
                activity = self._begin()
                gevent.sleep(random.random() * 0.002)
                if random.random() < 0.1:
                    activity.finish("rejected", 400)
                    os.write(self._refused, f"{activity.request_id}\n".encode())
                    continue
                activity.dispatch()
                os.write(self._counted, f"{activity.request_id}\n".encode())
                gevent.sleep(random.random() * 0.01)
                activity.finish(random.choice(ENDINGS[:3]), 200)

        for _ in range(streams):
            gevent.spawn(run)

    def record_nul(self) -> str:
        """Records a request with texts that PostgreSQL does not take as they are."""
        activity = self._begin()
        activity.row.finish_reason, activity.row.upstream_request_id = "a\0b", "\ud800"
        activity.row.model_requested = "x" * 1_000_000
        activity.dispatch()
        activity.finish("ok", 200)
        return activity.request_id  # type: ignore[no-any-return]

    def record_unacceptable(self) -> str:
        """Records a request with an outcome that the database does not know."""
        activity = self._begin()
        activity.dispatch()
        activity.finish("no such outcome", 200)
        return activity.request_id  # type: ignore[no-any-return]

    def status(self) -> dict[str, Any]:
        """Returns what `get_journal_status` says."""
        import msgspec

        from app.services.journal import get_journal_status

        status: dict[str, Any] = msgspec.to_builtins(get_journal_status())
        return status

    def integrity(self) -> dict[str, Any]:
        """Returns what `get_integrity` says."""
        import msgspec

        from app.services.journal import get_integrity

        integrity: dict[str, Any] = msgspec.to_builtins(get_integrity())
        return integrity

    def memory_bytes(self) -> int:
        """Returns the resident set size."""
        import psutil

        return int(psutil.Process().memory_info().rss)

    def longest_stall_s(self, seconds: float) -> float:
        """Returns the longest time within `seconds` that the event loop did not come round."""
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
    """Obeys until its input ends."""
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
