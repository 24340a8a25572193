"""Keys with limits, written straight into the database of a gateway, which finds a new key at once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2

from app.services.keys import digest_of, new_key

# Unit and amount, such as ("usd", "0.5"), and further columns of the budget.
BudgetTerms = Sequence[Any]


def make_limited_key(database_url: str, *budgets: BudgetTerms, group: str | None = None, **limits: Any) -> str:
    """Stores a key with its own holder, and returns it.

    Args:
        database_url: of the gateway.
        budgets: the holder's budgets, each (unit, amount, columns…) as in ("usd", "5", {"time_window": "day"}).
        group: the id of the holder's group, from `make_group`.
        limits: columns of the table subject, such as `models` or `requests_per_minute`.
    """
    holder, key = secrets.token_hex(5), new_key()
    with _transaction(database_url) as cursor:
        _insert_subject(cursor, holder, "holder", budgets, {"group_id": group, **limits})
        cursor.execute(
            "INSERT INTO api_key (id, name, digest, last_four, holder_id) VALUES (%s, %s, %s, %s, %s)",
            (key.split("_")[1], f"key of {holder}", digest_of(key), key[-4:], holder),
        )
    return key


def make_group(database_url: str, *budgets: BudgetTerms, **limits: Any) -> str:
    """Stores a group and returns its id, which is also its name."""
    group = secrets.token_hex(5)
    with _transaction(database_url) as cursor:
        _insert_subject(cursor, group, "group", budgets, limits)
    return group


def get_charges(database_url: str, key: str) -> dict[str, tuple[Any, ...]]:
    """Returns unit → (exact, estimated, ceiling, requests) of a key's holder, without units that have no charges."""
    with _transaction(database_url) as cursor:
        cursor.execute(
            """SELECT unit, sum(exact), sum(estimated), sum(ceiling), sum(requests)::int
            FROM api_key JOIN budget ON budget.subject_id = holder_id
            JOIN budget_charge ON period_id >> 32 = budget.id WHERE digest = %s GROUP BY unit""",
            (digest_of(key),),
        )
        return {row[0]: tuple(row[1:]) for row in cursor.fetchall()}


def _insert_subject(
    cursor: Any, subject: str, kind: str, budgets: Sequence[BudgetTerms], columns: dict[str, Any]
) -> None:
    values = {"id": subject, "kind": kind, "name": subject} | columns
    names = ", ".join(values)
    cursor.execute(f"INSERT INTO subject ({names}) VALUES ({', '.join(['%s'] * len(values))})", [*values.values()])
    for unit, amount, *more in budgets:
        terms = {"subject_id": subject, "unit": unit, "amount": amount, "time_window": "day"}
        for columns in more:
            terms |= columns
        names = ", ".join(terms)
        sql = f"INSERT INTO budget ({names}) VALUES ({', '.join(['%s'] * len(terms))})"
        cursor.execute(sql, [*terms.values()])


@contextmanager
def _transaction(database_url: str) -> Iterator[Any]:
    connection = psycopg2.connect(database_url.replace("+psycopg2", ""), connect_timeout=10)
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
