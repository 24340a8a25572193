"""A worker's start and end: its background threads, the drain, and the last shipping of its journal."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from app.runtime import get_settings
from app.server.garbage import start_collector
from app.services.aliases import start_aliases
from app.services.bill import start_bills
from app.services.catalog_memory import start_catalog_memory
from app.services.health import encode_worker_state, start_gauges
from app.services.inference import write_refusals
from app.services.journal import start_journal, stop_journal
from app.services.keys import start_keys
from app.services.limits import stop_limits
from app.services.models import refresh_if_due
from app.services.quality import start_quality
from app.services.reports import start_retention
from app.services.sessions import start_sessions
from app.services.traces import start_traces, stop_traces
from app.services.webhook import start_webhook, stop_webhook
from app.shutdown import get_drain_left_s, start_drain

# How long a stop waits for a running draw from limits, in seconds. The database ignores one that ends later.
_LIMITS_TIMEOUT_S = 0.5
# The share of the graceful time after the last request that ships the journal; gunicorn needs the rest to exit.
_SHIPPING_SHARE = 0.6
# Warnings from just before the stop are sent while the journal is shipped; they get this much longer, in seconds.
_WEBHOOK_TIMEOUT_S = 0.5
# The time for the spans of the last requests, in seconds; their collector is usually nearby.
_TRACES_TIMEOUT_S = 1.0

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The highest value that mallopt accepts for the second. A response with a hundred vectors takes ten, in two copies.
_KEPT_BYTES = 32 << 20


def start_worker(worker: Any) -> None:
    """Opens the journal, loads keys and aliases, starts the background threads, and drains on the stop signal."""
    start_journal(encode_worker_state)
    start_keys()
    start_aliases()
    refresh_if_due()
    start_retention()
    start_quality()
    start_catalog_memory()
    start_gauges()
    start_sessions()
    start_webhook()
    start_bills()
    start_traces()
    _drain_on_term(worker)
    _keep_freed_memory()
    start_collector()


def _keep_freed_memory() -> None:
    """Lets the process keep up to 32 MB of freed memory for the next large body.

    By default glibc returns most of the memory of a large body to the kernel, which must then clear each page again for
    the next one. That takes several milliseconds, in which no event is relayed.
    """
    with suppress(OSError, AttributeError):  # Other C libraries have no such function.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)


def _drain_on_term(worker: Any) -> None:
    """Starts the drain on SIGTERM, before gunicorn's own handler."""
    handler: Callable[[int, FrameType | None], Any] = worker.handle_exit

    def on_term(signum: int, frame: FrameType | None) -> None:
        start_drain(get_settings().drain_timeout_s, replaced=not worker.gateway_stops[0])
        handler(signum, frame)

    signal.signal(signal.SIGTERM, on_term)


def stop_worker() -> None:
    """Ships as much of the journal as possible before gunicorn kills the worker."""
    settings = get_settings()
    write_refusals()
    stop_limits(_LIMITS_TIMEOUT_S)
    after_drain_s = settings.graceful_timeout_s - settings.drain_timeout_s
    stop_journal((after_drain_s + get_drain_left_s()) * _SHIPPING_SHARE)
    stop_webhook(_WEBHOOK_TIMEOUT_S)
    stop_traces(_TRACES_TIMEOUT_S)
