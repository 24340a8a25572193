"""Draws of permits and of slots: never more than the rate in any minute, never more than the limit at once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from app.db.limit_tables import RATE_SLOTS
from app.db.rates import PermitAnswer, PermitDraw, SlotAnswer, SlotDraw, draw_permits, draw_slots


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """A database shared by the tests of this file, each of which has its own budgets and subjects."""
    return file_engine


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> str:
    """The name of a subject that no other test uses."""
    return request.node.name


def draw(engine: Engine, subject: str, need: int, **others: Any) -> PermitAnswer:
    values: dict[str, Any] = {"kind": "tokens", "most": 1000, "firm": need, "want": need, "debt": 0, "returned": {}}
    (answer,) = draw_permits(engine, [PermitDraw(subject=subject, need=need, **(values | others))]).pots
    return answer


def read_ring(engine: Engine, subject: str) -> tuple[list[int], int]:
    with engine.connect() as connection:
        row = connection.execute(text(f"SELECT slots, head FROM rate_pot WHERE subject_id = '{subject}'")).one()
    return row.slots, row.head


def move_back(engine: Engine, subject: str, half_seconds: int) -> None:
    """Makes all grants older: moves the contents of the ring's slot n to slot n - half_seconds."""
    slots, head = read_ring(engine, subject)
    moved = [slots[(position + half_seconds) % RATE_SLOTS] for position in range(RATE_SLOTS)]
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE rate_pot SET slots = :slots, head = :head WHERE subject_id = :subject"),
            {"slots": moved, "head": head - half_seconds, "subject": subject},
        )


def test_no_more_than_the_rate_is_given_in_a_minute(engine: Engine, subject: str) -> None:
    assert draw(engine, subject, 10, want=1000).given == 250
    assert draw(engine, subject, 10, firm=700, want=900).given == 700
    refused = draw(engine, subject, 100)
    assert (refused.given, refused.room, refused.refused) == (0, 50, True)
    assert refused.wait_s is not None and 60 <= refused.wait_s <= 61.5
    assert draw(engine, subject, 50).given == 50
    # The first permits come back when the half second of their grant is out of the window.
    move_back(engine, subject, RATE_SLOTS - 3)
    soon = draw(engine, subject, 100)
    assert soon.refused and soon.wait_s is not None and 0 < soon.wait_s <= 1.5
    move_back(engine, subject, 3)
    assert draw(engine, subject, 1000).given == 1000


def test_unused_permits_come_back_and_debts_are_paid(engine: Engine, subject: str) -> None:
    first = draw(engine, subject, 900)
    assert draw(engine, subject, 0, want=0, returned={first.slot: 300}).room == 400
    # Permits that are out of the window or were never granted are not given back.
    assert draw(engine, subject, 0, want=0, returned={first.slot - RATE_SLOTS: 300, first.slot + 50: 9}).room == 400
    assert draw(engine, subject, 0, want=0, debt=1500).room == -1100
    assert draw(engine, subject, 1).refused
    assert draw(engine, subject, 0, want=10).given == 0
    move_back(engine, subject, RATE_SLOTS)
    assert draw(engine, subject, 1).given == 1


@pytest.mark.parametrize(("half_seconds", "room"), [(-5, 100), (-RATE_SLOTS - 1, 1000), (10_000, 1000)])
def test_a_clock_that_was_set_forgets_a_minute_at_most(
    engine: Engine, subject: str, half_seconds: int, room: int
) -> None:
    draw(engine, subject, 900)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE rate_pot SET head = head - :moved WHERE subject_id = :subject"),
            {"moved": half_seconds, "subject": subject},
        )
    assert draw(engine, subject, 0, want=0).room == room


def slots(
    engine: Engine, worker: str, subject: str, version: int, need: int, used: int = 0, **others: Any
) -> SlotAnswer:
    values: dict[str, Any] = {"most": 10, "firm": need, "want": need} | others
    draws = [SlotDraw(subject=subject, version=version, used=used, need=need, **values)]
    (answer,) = draw_slots(engine, worker, draws).pots
    return answer


def test_workers_hold_no_more_than_the_limit_together(engine: Engine, subject: str) -> None:
    assert slots(engine, "a", subject, 1, 1, firm=4, want=10).held == 4
    assert slots(engine, "b", subject, 1, 1, firm=9, want=9).held == 6
    refused = slots(engine, "c", subject, 1, 1)
    assert (refused.held, refused.room, refused.refused) == (0, 0, True)
    # An older statement changes nothing, and a newer one replaces what the worker held.
    assert not slots(engine, "a", subject, 1, 0).applied
    assert slots(engine, "a", subject, 2, 2, used=2).held == 2
    assert slots(engine, "c", subject, 2, 2).held == 2
    # Slots in use are kept, even if the limit was lowered.
    assert slots(engine, "b", subject, 2, 6, used=6, most=3).held == 6


def test_a_worker_that_was_not_seen_for_half_a_minute_holds_nothing(engine: Engine, subject: str) -> None:
    assert slots(engine, "a", subject, 1, 10).held == 10
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE slot_lease SET seen_at = now() - interval '31 s' WHERE subject_id = '{subject}'")
        )
    assert slots(engine, "b", subject, 1, 10).held == 10
    # It comes back with requests in flight, which count and leave no room for others.
    assert slots(engine, "a", subject, 2, 5, used=4).held == 4
