"""The table subject: holders of keys, groups of holders, and the gateway, with their limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from app.db.limit_tables import subject

Kind = Literal["holder", "group", "gateway"]


class SubjectRow(NamedTuple):
    """One subject; None and [] mean no limit. Only a holder can have a `group_id`."""

    id: str
    kind: Kind
    name: str
    group_id: str | None
    models: list[str]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    max_output_tokens: int | None
    created_at: datetime


_COLUMNS = [subject.c[name] for name in SubjectRow._fields]


def insert_subject(connection: Connection, **values: Any) -> SubjectRow | None:
    """Adds a subject with these columns and returns it; None if another of its kind has the name."""
    query = insert(subject).values(values).on_conflict_do_nothing(constraint="uq_subject_kind").returning(*_COLUMNS)
    row = connection.execute(query).first()
    return None if row is None else SubjectRow(*row)


def select_subject(
    connection: Connection, *, id: str | None = None, kind: Kind | None = None, name: str | None = None, lock: bool
) -> SubjectRow | None:
    """Returns the subject with this id, or of this kind and name; None if there is none.

    Args:
        connection: in a transaction.
        id, kind, name: select the subject.
        lock: whether other transactions that lock it wait until this one ends.
    """
    wanted = {"id": id, "kind": kind, "name": name}
    conditions = [subject.c[column] == value for column, value in wanted.items() if value is not None]
    query = select(*_COLUMNS).where(*conditions)
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).first()
    return None if row is None else SubjectRow(*row)


def select_subjects(
    connection: Connection, ids: Collection[str] | None = None, kind: Kind | None = None
) -> dict[str, SubjectRow]:
    """Returns id → subject, ordered by name; of these ids, of this kind, or all."""
    query = select(*_COLUMNS).order_by(subject.c.name)
    if ids is not None:
        query = query.where(subject.c.id.in_(ids))
    if kind is not None:
        query = query.where(subject.c.kind == kind)
    return {row.id: SubjectRow(*row) for row in connection.execute(query)}


def select_holder_page(
    connection: Connection, *, group_id: str | None = None, after: str | None = None, limit: int | None = None
) -> dict[str, SubjectRow]:
    """Returns id → holder, ordered by name.

    Args:
        connection: the database.
        group_id: only holders of this group; None for all holders.
        after: the name of the last holder of the previous page.
        limit: the most holders to return; None for all.
    """
    query = select(*_COLUMNS).where(subject.c.kind == "holder").order_by(subject.c.name).limit(limit)
    if group_id is not None:
        query = query.where(subject.c.group_id == group_id)
    if after is not None:
        query = query.where(subject.c.name > after)
    return {row.id: SubjectRow(*row) for row in connection.execute(query)}


def update_subject(connection: Connection, id: str, values: Mapping[str, Any]) -> bool:
    """Sets these columns of a subject; returns False, and changes nothing, if another of its kind has the name."""
    try:
        with connection.begin_nested():
            connection.execute(update(subject).where(subject.c.id == id).values(dict(values)))
        return True
    except IntegrityError:
        return False


def select_holder_count(connection: Connection, group_id: str) -> int:
    """Returns how many holders are in a group."""
    return int(connection.execute(select(func.count()).where(subject.c.group_id == group_id)).scalar_one())


def select_holder_counts(connection: Connection) -> dict[str, int]:
    """Returns group id → the number of its holders; groups without any are left out."""
    query = select(subject.c.group_id, func.count()).where(subject.c.group_id.is_not(None)).group_by(subject.c.group_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def delete_subject(connection: Connection, id: str) -> None:
    """Deletes a subject that no key, holder or budget refers to."""
    connection.execute(delete(subject).where(subject.c.id == id))
