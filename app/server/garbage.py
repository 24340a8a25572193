"""Garbage collection in small steps, so that no event waits for it.

Python collects young objects when there are 700 more than at the last collection. While as many requests end as begin,
their number hardly grows. So there is no collection for many seconds, and the objects of all live streams stay young:
78,000 with a thousand streams. Then any larger statement triggers a collection of them all, which takes 6 to 25 ms.
Here one runs every tenth of a second, whatever the number, so that an object is young only once and briefly.
"""

from __future__ import annotations

import gc
import threading
import time

# Seconds between two collections of young objects. A hundred new streams per second make 780 objects in that time.
STEP_S = 0.1
# The steps after which survivors are examined once more; after that they are old.
STEPS_TO_OLD = 5
# A full collection takes 20 ms with a thousand streams. It runs when the objects may have grown by GROWTH, but not
# before LEAST_STEPS_TO_ALL, because a single large body can have as many; and after STEPS_TO_ALL in any case.
GROWTH = 100_000
LEAST_STEPS_TO_ALL = 100
STEPS_TO_ALL = 6_000

# Python's own collections run only if a step makes this many objects; the last number leaves old ones to `step`.
_THRESHOLDS = (10_000, STEPS_TO_OLD, 1_000_000)


class Collector:
    """Decides at each step which objects to examine."""

    def __init__(self) -> None:
        self._steps = 0  # Steps since the last full collection.
        self._grown = 0

    def note_look(self, phase: str, _: object) -> None:
        """Called by Python at the start and end of each collection; Python's own collections count too."""
        if phase == "start":
            # Objects made minus objects freed since the last collection. Garbage is never freed, so this includes it.
            self._grown += gc.get_count()[0]

    def step(self) -> None:
        """Examines the objects made since the last step, and older ones when they are due."""
        self._steps += 1
        if self._steps >= (LEAST_STEPS_TO_ALL if self._grown >= GROWTH else STEPS_TO_ALL):
            self._steps = self._grown = 0
            gc.collect()
        else:
            gc.collect(0 if self._steps % STEPS_TO_OLD else 1)


def start_collector() -> None:
    """Excludes all existing objects from garbage collection, and starts the collector.

    Most of them live as long as the process. 1,800 of 94,000 objects are garbage by now, and finding them would take a
    tenth of the start.
    """
    collector = Collector()
    gc.callbacks.append(collector.note_look)
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    gc.enable()
    threading.Thread(target=_collect_forever, args=(collector,), name="garbage", daemon=True).start()


def _collect_forever(collector: Collector) -> None:
    while True:
        time.sleep(STEP_S)
        collector.step()
