"""Creates, changes, deletes and shows aliases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UnsetType

from app.db import Connection, read_connection, write_connection
from app.db.aliases import AliasRow, delete_alias, insert_alias, select_alias, select_aliases, update_alias
from app.errors import Conflict, NotFound
from app.services.administration import record_change
from app.services.alias_administration.terms import (
    AliasChanges,
    NewAlias,
    validate_alias_name,
    validate_overrides,
    validate_sort,
    validate_targets,
)
from app.services.aliases import AliasTarget


class TargetView(msgspec.Struct, frozen=True, kw_only=True):
    """A model that an alias stands for."""

    name: str
    weight: float | None


class AliasView(msgspec.Struct, frozen=True, kw_only=True):
    """An alias; fields that can be changed have the names of AliasChanges."""

    name: str
    targets: list[TargetView]
    sort: str | None
    overrides: dict[str, Any]
    created_at: datetime


def create_alias(actor: str, wanted: NewAlias) -> AliasView:
    """Makes an alias.

    Args:
        actor: who makes the change, for the audit.
        wanted: the alias.

    Raises:
        BadRequest: a part of it makes no sense.
        Conflict: there is an alias of this name.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        made = _create(connection, actor, wanted.name, wanted)
    if made is None:
        raise Conflict(
            f"There is an alias {wanted.name!r} already. Change it with PATCH /api/aliases/{wanted.name.lower()}, or"
            " choose another name.",
            param="name",
            code="name_taken",
        )
    return made


def change_alias(actor: str, name: str, changes: AliasChanges) -> AliasView:
    """Changes an alias.

    Raises:
        NotFound: there is none of this name.
        BadRequest, DatabaseError: as for `create_alias`.
    """
    with write_connection() as connection:
        return _change(connection, actor, _find(connection, name, lock=True), changes)


def set_alias(actor: str, name: str, changes: AliasChanges) -> AliasView:
    """Creates an alias, or changes the one with this name.

    Raises:
        BadRequest, DatabaseError: as for `create_alias`.
    """
    with write_connection() as connection:
        row = select_alias(connection, name.lower(), lock=True)
        made = _create(connection, actor, name, changes) if row is None else None
        # If another transaction has created it meanwhile, it is visible now, because that one has committed.
        return made or _change(connection, actor, row or _find(connection, name, lock=True), changes)


def remove_alias(actor: str, name: str) -> AliasView:
    """Deletes an alias, and returns it.

    Raises:
        NotFound: there is none of this name.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = _find(connection, name, lock=True)
        delete_alias(connection, row.name)
        record_change(connection, actor, "alias.delete", f"alias:{row.name}", _describe(row), None)
        return _make_view(row)


def select_alias_view(name: str) -> AliasView:
    """Returns the alias with this name, ignoring case.

    Raises:
        NotFound: there is none of this name.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return _make_view(_find(connection, name))


def select_alias_views() -> list[AliasView]:
    """Returns all aliases, in order of name.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return [_make_view(row) for row in select_aliases(connection)]


def _create(connection: Connection, actor: str, name: str, wanted: AliasChanges) -> AliasView | None:
    name = validate_alias_name(name)
    terms = _check(connection, name, None, wanted)
    row = insert_alias(connection, name, *terms)
    if row is None:
        return None
    record_change(connection, actor, "alias.create", f"alias:{name}", None, _describe(row))
    return _make_view(row)


def _change(connection: Connection, actor: str, before: AliasRow, changes: AliasChanges) -> AliasView:
    terms = _check(connection, before.name, before, changes)
    row = update_alias(connection, before.name, *terms)
    record_change(connection, actor, "alias.change", f"alias:{row.name}", _describe(before), _describe(row))
    return _make_view(row)


def _check(
    connection: Connection, name: str, before: AliasRow | None, changes: AliasChanges
) -> tuple[list[tuple[str, float | None]], str | None, dict[str, Any]]:
    """Returns the targets, the sort and the overrides for an alias."""
    if not isinstance(changes.targets, UnsetType):
        targets = validate_targets(changes.targets, {name, *(row.name for row in select_aliases(connection))})
    elif before is not None:
        targets = [AliasTarget(*target) for target in before.targets]
    else:
        targets = validate_targets((), ())  # This raises the error that there must be one.
    kept_sort, kept_overrides = (None, {}) if before is None else (before.sort, dict(before.overrides))
    sort = validate_sort(kept_sort if isinstance(changes.sort, UnsetType) else changes.sort, targets)
    given = changes.overrides
    overrides = kept_overrides if isinstance(given, UnsetType) else validate_overrides(given)
    return [(target.name, target.weight) for target in targets], sort, overrides


def _find(connection: Connection, name: str, *, lock: bool = False) -> AliasRow:
    row = select_alias(connection, name.lower(), lock=lock)
    if row is None:
        raise NotFound(
            f"There is no alias {name[:100]!r}. `bin/gateway aliases list` or GET /api/aliases shows all.",
            param="alias",
            code="unknown_alias",
        )
    return row


def _describe(row: AliasRow) -> dict[str, Any]:
    """Returns an alias as JSON values, for the audit."""
    described: dict[str, Any] = msgspec.to_builtins(_make_view(row))
    return {name: value for name, value in described.items() if name != "created_at"}


def _make_view(row: AliasRow) -> AliasView:
    return AliasView(
        name=row.name,
        targets=[TargetView(name=name, weight=weight) for name, weight in row.targets],
        sort=row.sort,
        overrides=dict(row.overrides),
        created_at=row.created_at,
    )
