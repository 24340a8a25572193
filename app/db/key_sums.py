"""Sums by key in a window, and the current owners of keys."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Text, cast, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

from app.db.limit_tables import subject
from app.db.rollup_rows import Selection, rows_in
from app.db.rollup_tables import KEY_PREFIX, key_presence, outcome_usage
from app.db.sums import Sums
from app.db.tables import api_key
from app.db.windows import compose_window
from app.yielding import with_pauses


class KeyOwner(NamedTuple):
    """The owner of a key: the key's name, and its holder and the holder's group by id and name; None without one."""

    name: str
    holder_id: str | None
    holder: str | None
    group_id: str | None
    group: str | None


def select_key_sums(connection: Connection, chosen: Selection, start: datetime, end: datetime) -> dict[str, Sums]:
    """Returns key → sums of its requests that started in [start, end), for the keys that had some.

    Args:
        connection: one whose statements share a snapshot.
        chosen: the requests to sum: of all keys, or of some.
        start, end: as for `app.db.rollups.select_usage` with a subject other than all requests.
    """
    spans = compose_window(start, end)
    if not spans:
        return {}
    present = rows_in(key_presence, chosen, spans, ["key_id"])
    keys = tuple(connection.execute(select(present.c.key_id).distinct()).scalars())
    if not keys:
        return {}
    # Selects by an array of keys, each of which is a range of the primary key. The range from the first to the last key
    # would include the rows of all times between them.
    rows = rows_in(outcome_usage, chosen._replace(keys=keys), spans, ["subject", *Sums._fields])
    sums = [cast(func.sum(rows.c[name]), outcome_usage.c[name].type) for name in Sums._fields]
    found = connection.execute(select(rows.c.subject, *sums).group_by(rows.c.subject))
    return {row[0].removeprefix(KEY_PREFIX): Sums(*row[1:]) for row in with_pauses(found)}


def select_key_owners(connection: Connection, keys: Collection[str]) -> dict[str, KeyOwner]:
    """Returns key → its current owner, for the given keys that are stored."""
    group = subject.alias("owning_group")
    query = (
        select(api_key.c.id, api_key.c.name, subject.c.id, subject.c.name, group.c.id, group.c.name)
        .outerjoin(subject, subject.c.id == api_key.c.holder_id)
        .outerjoin(group, group.c.id == subject.c.group_id)
        .where(api_key.c.id == func.any(literal(list(keys), ARRAY(Text))))
    )
    return {row[0]: KeyOwner(*row[1:]) for row in with_pauses(connection.execute(query))}
