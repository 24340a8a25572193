"""Calls of functions of the database that take and return JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Engine


def encode_draws(draws: Sequence[msgspec.Struct]) -> str:
    """Returns structs as a JSON array, for a parameter."""
    return msgspec.json.encode(draws).decode()


def call_function(engine: Engine, statement: str, parameters: dict[str, Any]) -> str:
    """Executes a statement of the driver in a transaction of its own and returns its one value, JSON."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        result: str = connection.exec_driver_sql(statement, parameters).scalar_one()
    return result
