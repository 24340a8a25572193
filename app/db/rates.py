"""Draws of workers from rates and from the numbers of concurrent requests, by the functions of migration 0010."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Engine

from app.db.function_calls import call_function, encode_draws

_SELECT_DRAW_PERMITS = "SELECT CAST(draw_permits_v1(CAST(%(pots)s AS jsonb)) AS text)"
_SELECT_DRAW_SLOTS = "SELECT CAST(draw_slots_v1(%(worker_id)s, CAST(%(pots)s AS jsonb)) AS text)"


class PermitDraw(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's draw of permits from a rate.

    Attributes:
        subject, kind: the subject and the unit of the rate; see rate_pot.
        most: the rate, per minute.
        need: the smallest useful number of permits.
        firm: the number that waiting requests need.
        want: the number that the worker would like to have.
        debt: the number used beyond the granted permits.
        returned: half second → the number of its granted permits that were not used.
    """

    subject: str
    kind: str
    most: int
    need: int
    firm: int
    want: int
    debt: int
    returned: dict[int, int]


class PermitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The permits that a worker got.

    Attributes:
        slot: the half second that they count for.
        given: their number; they may be used within half a second of the call.
        room: the number left for all workers.
        refused: whether fewer were left than needed.
        wait_s: seconds until the needed number is free, if nobody takes it; None if not refused, or if never.
    """

    subject: str
    kind: str
    slot: int
    given: int
    room: int
    refused: bool
    wait_s: float | None


class PermitAnswers(msgspec.Struct, frozen=True):
    """The answers to one call, and the number of live workers."""

    workers: int
    pots: list[PermitAnswer]


class SlotDraw(msgspec.Struct, frozen=True, kw_only=True):
    """The number of a subject's concurrent requests that a worker serves and wants to serve; absolute totals."""

    subject: str
    most: int
    version: int
    used: int
    need: int
    firm: int
    want: int


class SlotAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many concurrent requests of a subject the worker may serve now, and how many are left for all workers."""

    subject: str
    version: int
    applied: bool
    refused: bool
    held: int
    room: int


class SlotAnswers(msgspec.Struct, frozen=True):
    """The answers to one call, and the number of live workers."""

    workers: int
    pots: list[SlotAnswer]


_decode_permits = msgspec.json.Decoder(PermitAnswers).decode
_decode_slots = msgspec.json.Decoder(SlotAnswers).decode


def draw_permits(engine: Engine, draws: Sequence[PermitDraw]) -> PermitAnswers:
    """Executes draws of permits. A draw that is executed twice wastes permits but grants none."""
    return _decode_permits(call_function(engine, _SELECT_DRAW_PERMITS, {"pots": encode_draws(draws)}))


def draw_slots(engine: Engine, worker_id: str, draws: Sequence[SlotDraw]) -> SlotAnswers:
    """Reports the number of concurrent requests that a worker serves, and draws more slots."""
    return _decode_slots(
        call_function(engine, _SELECT_DRAW_SLOTS, {"worker_id": worker_id, "pots": encode_draws(draws)})
    )
