"""Draws of workers from rates and from the numbers of concurrent requests, by the functions of migration 0010."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Engine

from app.db.function_calls import call_function, encode_draws

_SELECT_DRAW_PERMITS = "SELECT CAST(draw_permits_v1(CAST(%(pots)s AS jsonb)) AS text)"
_SELECT_DRAW_SLOTS = "SELECT CAST(draw_slots_v1(%(worker_id)s, CAST(%(pots)s AS jsonb)) AS text)"


class PermitDraw(msgspec.Struct, frozen=True, kw_only=True):
    """Which permits a worker wants of a rate.

    Attributes:
        subject, kind: whose rate, and of what; see rate_pot.
        most: the rate, per minute.
        need: how many are of use at least.
        firm: how many waiting requests need.
        want: how many the worker would like to have.
        debt: how many it used beyond those it had.
        returned: half second → how many that were granted in it were not used.
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
        given: how many; they may be used within half a second of the call.
        room: how many are left for all workers.
        refused: whether fewer than needed were left.
        wait_s: seconds until as many as needed are free, if nobody takes them; None if not refused, or if never.
    """

    subject: str
    kind: str
    slot: int
    given: int
    room: int
    refused: bool
    wait_s: float | None


class PermitAnswers(msgspec.Struct, frozen=True):
    """The answers to one call, and the number of workers that live."""

    workers: int
    pots: list[PermitAnswer]


class SlotDraw(msgspec.Struct, frozen=True, kw_only=True):
    """How many concurrent requests of a subject a worker serves and wants to serve; absolute totals."""

    subject: str
    most: int
    version: int
    used: int
    need: int
    firm: int
    want: int


class SlotAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many concurrent requests of a subject the worker may serve now, and how many more all workers."""

    subject: str
    version: int
    applied: bool
    refused: bool
    held: int
    room: int


class SlotAnswers(msgspec.Struct, frozen=True):
    """The answers to one call, and the number of workers that live."""

    workers: int
    pots: list[SlotAnswer]


_decode_permits = msgspec.json.Decoder(PermitAnswers).decode
_decode_slots = msgspec.json.Decoder(SlotAnswers).decode


def draw_permits(engine: Engine, draws: Sequence[PermitDraw]) -> PermitAnswers:
    """Carries out draws of permits. One that is carried out twice wastes permits and grants none."""
    return _decode_permits(call_function(engine, _SELECT_DRAW_PERMITS, {"pots": encode_draws(draws)}))


def draw_slots(engine: Engine, worker_id: str, draws: Sequence[SlotDraw]) -> SlotAnswers:
    """States how many concurrent requests a worker serves, and draws more."""
    return _decode_slots(
        call_function(engine, _SELECT_DRAW_SLOTS, {"worker_id": worker_id, "pots": encode_draws(draws)})
    )
