"""A worker's garbage collection: live objects are examined only while young, and garbage does not stay."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.server import garbage
from app.server.garbage import GROWTH, LEAST_STEPS_TO_ALL, STEPS_TO_OLD, Collector


class Node:
    """An object that can refer to itself."""

    itself: Node | None = None


def make_cycle() -> Node:
    node = Node()
    node.itself = node
    return node


def generation_of(one: object) -> int | None:
    return next((number for number in range(3) if any(other is one for other in gc.get_objects(number))), None)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that is the only one in the process to start collections."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    made = Collector()
    gc.callbacks.append(made.note_look)
    yield made
    gc.callbacks.remove(made.note_look)
    if was_enabled:
        gc.enable()


def test_an_object_that_lives_is_young_once_and_soon_old(collector: Collector) -> None:
    node = Node()
    assert generation_of(node) == 0
    collector.step()
    assert generation_of(node) == 1
    for _ in range(STEPS_TO_OLD):
        collector.step()
    assert generation_of(node) == 2


def test_young_garbage_is_freed_at_the_next_step(collector: Collector) -> None:
    young = weakref.ref(make_cycle())
    assert young() is not None
    collector.step()
    assert young() is None


@pytest.mark.parametrize("reason", ["growth", "growth that Python looked at", "time"])
def test_old_garbage_is_freed_after_a_growth_or_a_time(
    collector: Collector, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = LEAST_STEPS_TO_ALL + STEPS_TO_OLD if reason == "time" else LEAST_STEPS_TO_ALL
    monkeypatch.setattr(garbage, "STEPS_TO_ALL", steps if reason == "time" else 10**9)
    grown = [] if reason == "time" else [[number] for number in range(GROWTH)]
    if "Python" in reason:  # As after a large body, during which collection is off.
        gc.collect(0)
    node = make_cycle()
    old = weakref.ref(node)
    for _ in range(2 * STEPS_TO_OLD):
        collector.step()
    del node
    for _ in range(steps - 2 * STEPS_TO_OLD - 1):
        collector.step()
    assert old() is not None
    collector.step()
    assert old() is None
    del grown
