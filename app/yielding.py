"""Long loops in slices, so that other requests of the worker run in between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# The slowest of the loops takes 20 µs an item, so a slice is 2 ms.
SLICE_ITEMS = 100

# Under gevent a sleep of zero only runs greenlets that are ready; a real one lets sockets and timers have their turn.
PAUSE_S = 0.001


def with_pauses(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, and pauses after every hundred of them so that other greenlets run."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % SLICE_ITEMS == 0:
            time.sleep(PAUSE_S)
