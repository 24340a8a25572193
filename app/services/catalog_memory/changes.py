"""The changes of providers' lists in the form of the API."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from app.cursors import read_id_cursor
from app.db import read_connection
from app.db.catalog import ChangeFilter as ChangeFilter
from app.db.catalog import ChangeRow, Facts, select_changes
from app.db.catalog_tables import CHANGE_KINDS as CHANGE_KINDS
from app.services.catalog_memory.facts import NAMES

MAX_PAGE_CHANGES = 1_000


class CatalogChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one model at one provider.

    Attributes:
        at: when the list was fetched that had it first.
        gateway: the provider.
        model: the model's id there.
        kind: what changed. A model whose price and context change at once has two changes.
        before, after: what the change is about: all that is known of a model that was added or removed, else the facts
            that changed. Prices are decimal strings in USD per token; what is unknown is null.
    """

    id: int
    at: datetime
    gateway: str
    model: str
    kind: Literal["added", "removed", "price", "context", "deprecation"]
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ChangesPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of changes, newest first; `next_cursor` is that of the next page, None on the last one."""

    object: Literal["list"] = "list"
    data: list[CatalogChange]
    has_more: bool
    next_cursor: str | None


def select_changes_page(wanted: ChangeFilter, cursor: str | None, limit: int) -> ChangesPage:
    """Returns up to `limit` changes, newest first.

    Args:
        wanted: the filter.
        cursor: `next_cursor` of the previous page; None for the first page.
        limit: the most changes per page.

    Raises:
        BadRequest: the cursor is not one that the gateway made.
        DatabaseError: the database is unavailable or slow.
    """
    before_id = read_id_cursor(cursor)
    with read_connection() as connection:
        rows = select_changes(connection, wanted, before_id=before_id, limit=limit + 1)
    has_more = len(rows) > limit
    changes = [_make_change(row) for row in rows[:limit]]
    return ChangesPage(data=changes, has_more=has_more, next_cursor=str(changes[-1].id) if has_more else None)


def _make_change(row: ChangeRow) -> CatalogChange:
    return CatalogChange(
        id=row.id,
        at=row.at,
        gateway=row.provider,
        model=row.model,
        kind=row.kind,  # type: ignore[arg-type]
        before=_pick(row.kind, row.before),
        after=_pick(row.kind, row.after),
    )


def _pick(kind: str, facts: Facts | None) -> Facts | None:
    if facts is None:
        return None
    names = NAMES.get(kind) or [name for names in NAMES.values() for name in names]
    shown = (*names, "price_source") if "prompt" in names else names
    return {name: facts.get(name) for name in shown}
