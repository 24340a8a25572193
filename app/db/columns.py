"""Column comments as descriptions of rows that are shown unchanged."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import JSON, Table
from sqlalchemy.types import ARRAY


class ColumnInfo(NamedTuple):
    """A column: its name, the Python type of its values, whether they may be NULL, and its comment."""

    name: str
    kind: Any
    nullable: bool
    comment: str | None


def describe_columns(table: Table) -> list[ColumnInfo]:
    """Returns the columns of a table, in its order."""
    return [
        ColumnInfo(str(column.name), _get_kind(column.type), bool(column.nullable), column.comment)
        for column in table.columns
    ]


def _get_kind(kind: Any) -> Any:
    if isinstance(kind, JSON):
        return Any
    if isinstance(kind, ARRAY):
        return list[_get_kind(kind.item_type)]  # type: ignore[misc]
    return kind.python_type
