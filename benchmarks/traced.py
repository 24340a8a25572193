"""The gateway with a profiler in its worker, for `python -m benchmarks.trace`; only that script serves it.

Each call of a function of `app/` is recorded with its time, its greenlet and its file. `GET /trace` returns all calls.
The script picks those of a request by the time when it sent the request.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import greenlet

from wsgi import app as gateway

_APP = str(Path(__file__).resolve().parent.parent / "app") + "/"
# (seconds on the monotonic clock, which greenlet, file below app/, function)
_calls: list[tuple[float, int, str, str]] = []


def _record_call(frame: FrameType, event: str, argument: Any) -> None:
    # A generator counts each time it is resumed, because the program then goes to its file.
    if event == "call" and frame.f_code.co_filename.startswith(_APP):
        name = frame.f_code.co_filename[len(_APP) :]
        _calls.append((time.monotonic(), id(greenlet.getcurrent()), name, frame.f_code.co_name))


def _on_switch(event: str, greenlets: Any) -> None:
    # A profiler belongs to the greenlet that set it; this function runs in the greenlet that is resumed.
    sys.setprofile(_record_call)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serves the gateway, and at /trace the calls recorded so far."""
    if environ["PATH_INFO"] != "/trace":
        return gateway(environ, start_response)
    connection = greenlet.getcurrent()
    # The provider's events are relayed in gevent's hub, the parent of all greenlets.
    trace = {"calls": _calls, "connection": id(connection), "hub": id(connection.parent)}
    body = json.dumps(trace).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


greenlet.settrace(_on_switch)
sys.setprofile(_record_call)
