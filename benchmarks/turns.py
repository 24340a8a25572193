"""The gateway with a clock in its event loop, to measure how long a request delays the events of streams.

A timer of the loop is due each millisecond. Its delay is the time that an event arriving then would have waited.
`GET /bench/turns` returns the delays since the last call.
"""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Response
from gevent import get_hub

from wsgi import app

_STEP_S = 0.001

_delays_ms: list[float] = []
_timers: list[Any] = []  # One per process, started by its first request.


def _start() -> None:
    last_s = time.perf_counter()

    def note() -> None:
        nonlocal last_s
        now_s = time.perf_counter()
        _delays_ms.append(max(now_s - last_s - _STEP_S, 0.0) * 1000)
        last_s = now_s

    timer = get_hub().loop.timer(_STEP_S, _STEP_S)
    timer.start(note)
    _timers.append(timer)


@app.get("/bench/turns")
def turns() -> Response:
    """Returns the maximum and the 99.9th percentile of the delays, in milliseconds."""
    delays = sorted(_delays_ms)
    _delays_ms.clear()
    if not _timers:
        _start()
    last = len(delays) - 1
    found = {"delay_p999_ms": delays[last * 999 // 1000], "delay_max_ms": delays[last]} if delays else {}
    return Response(json.dumps(found), content_type="application/json")
