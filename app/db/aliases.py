"""The table model_alias: names that the operator gave to models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, text
from sqlalchemy.dialects.postgresql import insert

from app.db.tables import model_alias

# A row as text contains every field of an alias, so the sum of the hashes changes with any of them, and no sorting is
# needed. If the fingerprint is unchanged, PostgreSQL does not read the rows again.
_SELECT_CHANGED = text("""
    SELECT live.fingerprint, rows.aliases
    FROM (
        SELECT count(*) || ':' || coalesce(sum(hashtextextended(model_alias::text, 0)), 0) AS fingerprint
        FROM model_alias
    ) live
    LEFT JOIN LATERAL (
        SELECT json_agg(json_build_array(
            name, targets, sort, overrides, floor(extract(epoch FROM created_at))::bigint
        ) ORDER BY name COLLATE "C")::text AS aliases
        FROM model_alias WHERE live.fingerprint <> :held
    ) rows ON true
""")


class AliasRow(NamedTuple):
    """One alias.

    Attributes:
        name: the alias, in lower case.
        targets: for each target in order, [name of a model, weight or None].
        sort: the criterion for ordering the targets; None keeps their order.
        overrides: field of a body → its value.
    """

    name: str
    targets: Sequence[tuple[str, float | None]]
    sort: str | None
    overrides: Mapping[str, Any]
    created_at: datetime


class AliasesFound(NamedTuple):
    """All aliases at one moment.

    Attributes:
        fingerprint: changes with any of them; the same in every worker.
        aliases: a JSON list of [name, targets, sort, overrides, created_at as a Unix time], in order of name; None if
            the caller has them already.
    """

    fingerprint: str
    aliases: str | None


_COLUMNS = [model_alias.c[name] for name in AliasRow._fields]


def select_changed_aliases(connection: Connection, held: str) -> AliasesFound:
    """Returns all aliases, or only their fingerprint if that is `held`, in one round trip.

    Args:
        connection: the database.
        held: the fingerprint of the caller's aliases; "" if it has none.
    """
    row = connection.execute(_SELECT_CHANGED, {"held": held}).one()
    return AliasesFound(row.fingerprint, None if row.fingerprint == held else row.aliases or "[]")


def select_aliases(connection: Connection) -> list[AliasRow]:
    """Returns all aliases, in order of name."""
    rows = connection.execute(select(*_COLUMNS).order_by(model_alias.c.name.collate("C")))
    return [AliasRow(*row) for row in rows]


def select_alias(connection: Connection, name: str, *, lock: bool = False) -> AliasRow | None:
    """Returns an alias; None if there is none. With `lock`, other transactions that lock it wait."""
    query = select(*_COLUMNS).where(model_alias.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else AliasRow(*row)


def insert_alias(
    connection: Connection,
    name: str,
    targets: Sequence[tuple[str, float | None]],
    sort: str | None,
    overrides: Mapping[str, Any],
) -> AliasRow | None:
    """Adds an alias and returns it; None if the name exists, whose alias then stays."""
    values = {"name": name, "targets": targets, "sort": sort, "overrides": overrides}
    query = insert(model_alias).values(values).on_conflict_do_nothing().returning(*_COLUMNS)
    row = connection.execute(query).first()
    return None if row is None else AliasRow(*row)


def update_alias(
    connection: Connection,
    name: str,
    targets: Sequence[tuple[str, float | None]],
    sort: str | None,
    overrides: Mapping[str, Any],
) -> AliasRow:
    """Changes an existing alias and returns it."""
    values = {"targets": targets, "sort": sort, "overrides": overrides}
    query = model_alias.update().where(model_alias.c.name == name).values(values).returning(*_COLUMNS)
    return AliasRow(*connection.execute(query).one())


def delete_alias(connection: Connection, name: str) -> None:
    """Deletes an alias."""
    connection.execute(delete(model_alias).where(model_alias.c.name == name))
