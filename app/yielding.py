"""Pauses in long loops, so that the worker can serve other requests in between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# The slowest of the loops takes 20 µs per item, so a slice takes 2 ms.
SLICE_ITEMS = 100

# Under gevent a sleep of zero only runs ready greenlets; a longer one also serves sockets and timers.
PAUSE_S = 0.001

# The same without a wait: gevent's loop makes one pass, and the work continues. For work that a client waits for.
PASS_S = 1e-6


def with_pauses(items: Iterable[T], *, slice_items: int = SLICE_ITEMS, pause_s: float = PAUSE_S) -> Iterator[T]:
    """Yields the items, and pauses after every `slice_items` of them so that other greenlets run."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % slice_items == 0:
            time.sleep(pause_s)
