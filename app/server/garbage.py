"""Garbage collection in small steps, so that no event waits for it.

Python examines young objects when there are 700 more than at its last look. While as many requests end as begin, their
number hardly grows. So there is no look for many seconds, and the objects of all live streams stay young: 78,000 with a
thousand streams. Then any larger statement has all of them examined, which takes 6 to 25 ms. Here a look comes every
tenth of a second, whatever the number, so that an object is young only once and for a short time.
"""

from __future__ import annotations

import gc
import threading
import time

# How often young objects are examined, in seconds. A hundred streams that begin each second make 780 in between.
STEP_S = 0.1
# How many steps later those that were left are examined once more; after that they are old.
STEPS_TO_OLD = 5
# All are examined, which takes 20 ms with a thousand streams, when they may have grown by so many, but not sooner than
# so many steps later, because a single large body can have as many; and after so many steps in any case.
GROWTH = 100_000
LEAST_STEPS_TO_ALL = 100
STEPS_TO_ALL = 6_000

# Python's own looks come only if so many objects are made within a step; the last number leaves old ones to `step`.
_THRESHOLDS = (10_000, STEPS_TO_OLD, 1_000_000)


class Collector:
    """Decides at each step which objects are examined."""

    def __init__(self) -> None:
        self._steps = 0  # Since all were examined.
        self._grown = 0

    def note_look(self, phase: str, _: object) -> None:
        """Is called by Python when a look begins and when it ends; those of Python's own are counted too."""
        if phase == "start":
            # How many more were made than freed since the last look. Garbage is never freed, so this grows with it.
            self._grown += gc.get_count()[0]

    def step(self) -> None:
        """Examines the objects that were made since the last step, and older ones if their time has come."""
        self._steps += 1
        if self._steps >= (LEAST_STEPS_TO_ALL if self._grown >= GROWTH else STEPS_TO_ALL):
            self._steps = self._grown = 0
            gc.collect()
        else:
            gc.collect(0 if self._steps % STEPS_TO_OLD else 1)


def start_collector() -> None:
    """Excludes everything that exists now from garbage collection, and begins with it.

    Most of it lives as long as the process. 1,800 of 94,000 objects are garbage by now, and to find them would take a
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
