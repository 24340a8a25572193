"""Long loops in small pieces: 22,000 models are no reason to hold up a stream."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# The slowest of the loops takes 20 µs an item, so a piece is 2 ms.
_PIECE = 100

# Under gevent a sleep of zero only lets run what is ready already; a real one lets sockets and timers have their turn.
_PAUSE_S = 0.001


def unhurried(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, and lets other greenlets run after every hundred of them."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % _PIECE == 0:
            time.sleep(_PAUSE_S)
