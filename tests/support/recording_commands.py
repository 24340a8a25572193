"""The process behind `RecordingProcess`: it records requests as a worker does, under gevent.

It calls no provider. Instead it appends the id of each request that it would send to a file, which stands for the
provider's count.

Run as a program, it is a fork server: it has patched the standard library and imported everything, and forks a process
for each request. Starting Python would take half a second for that, a fork takes a few milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from tests.support.limit_commands import LimitCommands

# Endings of a request: after a provider responded or failed, or rejected before it is sent to one.
ENDINGS = ("ok", "client_gone", "upstream_error", "rejected")


class _Commands(LimitCommands):
    """The commands; each public method is one."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._counted = os.open(os.environ["COUNTED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._refused = os.open(os.environ["REFUSED_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def start(self) -> None:
        """Starts the journal, as a worker does before its first request; later calls do nothing."""
        from app.services.journal import start_journal

        start_journal()

    def stacks(self) -> list[str]:
        """Returns the stack of each greenlet and thread."""
        from gevent.util import format_run_info

        return list(format_run_info())

    def record(self, count: int) -> int:
        """Records `count` requests with all endings in turn, and lets other greenlets run after each."""
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

    def metrics(self) -> dict[str, float]:
        """Returns name → value of this process's metrics without labels, after refreshing the gauges of budgets."""
        from prometheus_client import REGISTRY

        from app.runtime import get_component
        from app.services.health.ledger_gauges import LedgerGauges

        get_component(LedgerGauges).update()
        samples = [sample for family in REGISTRY.collect() for sample in family.samples]
        return {sample.name: sample.value for sample in samples if not sample.labels}

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
        """Returns the longest time in seconds that this greenlet waits for its turn within the next `seconds`."""
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


def run_commands() -> None:
    """Runs one command for each line of the input, and ends with it."""
    from gevent.fileobject import FileObject

    commands = _Commands()
    for line in FileObject(sys.stdin.buffer, "rb"):
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(commands, name)(*arguments)), flush=True)
    os._exit(0)


def main() -> None:
    """Forks a process for each request on the socket that is its input, until that is closed.

    A request is the environment of the new process, in JSON, with its input, output and error output; the answer is its
    process id.
    """
    # The unpatched functions, because this loop must not start gevent's event loop.
    control, fork, handle = socket.socket(fileno=os.dup(0)), os.fork, signal.signal
    from gevent import monkey

    monkey.patch_all()
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()
    import psutil  # noqa: F401
    import sqlalchemy.dialects.postgresql  # noqa: F401

    import app.services.journal
    import app.services.limits  # noqa: F401

    handle(signal.SIGCHLD, _bury)
    while True:
        request, files, _, _ = socket.recv_fds(control, 100_000, 3)
        if not request:
            return
        if (pid := fork()) == 0:
            break
        for file in files:
            os.close(file)
        control.sendall(b"%d\n" % pid)
    handle(signal.SIGCHLD, signal.SIG_DFL)
    control.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(json.loads(request))
    run_commands()


def _bury(*_: object) -> None:
    """Reaps children that have ended."""
    with suppress(ChildProcessError):
        while os.wait3(os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
