"""What a worker process does beside answering requests: it starts with gunicorn's worker and stops with it."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from app.logs import log_event
from app.runtime import get_settings
from app.services.health import update_gauges
from app.services.journal.lifecycle import start_journal, stop_journal
from app.services.models import refresh_if_due
from app.services.reports import start_maintenance
from app.shutdown import start_drain

# Prometheus asks every 15 s or more, so its picture of a worker is that old at most.
GAUGES_EVERY_S = 5.0

# What is left of gunicorn's graceful time after the drain, for shipping the journal; the rest is for its own exit.
_SHIPPING_SHARE = 0.6


def start_worker(worker: Any) -> None:
    """Opens the journal, fetches the catalogs in the background, and listens for the signal to drain."""
    start_journal()
    refresh_if_due()
    start_maintenance()
    threading.Thread(target=_update_gauges_forever, name="gauges", daemon=True).start()
    _drain_on_term(worker)
    _calm_garbage_collector()


def _calm_garbage_collector() -> None:
    """Keeps the collector off what lives as long as the process, which it would walk through again and again.

    While it walks, no event is relayed.
    """
    gc.collect()
    gc.freeze()


def _drain_on_term(worker: Any) -> None:
    """Begins the drain when gunicorn's own handler is called, whose work goes on as before."""
    handler: Callable[[int, FrameType | None], Any] = worker.handle_exit

    def begin_drain(signum: int, frame: FrameType | None) -> None:
        start_drain(get_settings().drain_timeout_s)
        handler(signum, frame)

    signal.signal(signal.SIGTERM, begin_drain)


def _update_gauges_forever() -> None:
    while True:
        try:
            update_gauges()
        except Exception as error:
            log_event("gauge_update_failed", level="error", error=error)
        time.sleep(GAUGES_EVERY_S)


def stop_worker() -> None:
    """Ships what can be shipped before gunicorn's patience ends."""
    settings = get_settings()
    stop_journal((settings.graceful_timeout_s - settings.drain_timeout_s) * _SHIPPING_SHARE)
