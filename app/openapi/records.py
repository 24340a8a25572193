"""Records of requests; their fields are the columns of the table activity."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from app.db.columns import describe_columns
from app.db.tables import COST_KINDS, OUTCOMES, USAGE_SOURCES, activity
from app.services.reports import ActivityPage, RequestStory

_CHOICES: dict[str, tuple[str, ...]] = {
    "outcome": OUTCOMES,
    "cost_kind": COST_KINDS,
    "usage_source": USAGE_SOURCES,
}


def _make_kind(name: str, kind: Any, *, nullable: bool) -> Any:
    kind = Literal[_CHOICES[name]] if name in _CHOICES else kind
    return kind | None if nullable else kind


_COLUMNS = describe_columns(activity)

ActivityRecord = msgspec.defstruct(
    "ActivityRecord",
    [(each.name, _make_kind(each.name, each.kind, nullable=each.nullable)) for each in _COLUMNS],
    namespace={
        "__doc__": "One inference request; docs/activity.md explains every field.\n\nAttributes:\n"
        + "\n".join(f"    {each.name}: {each.comment}." for each in _COLUMNS if each.comment)
    },
    kw_only=True,
)


class RecordPage(ActivityPage, frozen=True, kw_only=True):
    """One page of records, newest first; `next_cursor` is that of the next page, null on the last one."""

    data: list[ActivityRecord]  # type: ignore[valid-type]


class RecordAnswer(RequestStory, frozen=True, kw_only=True):
    """The record of one request, with its retries.

    Attributes:
        data: its record.
    """

    data: ActivityRecord  # type: ignore[valid-type]
