"""Calls of database functions that take and return JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Engine


def encode_draws(draws: Sequence[msgspec.Struct]) -> str:
    """Returns structs as a JSON array, for use as a parameter."""
    return msgspec.json.encode(draws).decode()


def call_function(engine: Engine, statement: str, parameters: dict[str, Any]) -> str:
    """Executes a driver statement in its own transaction and returns its one value, JSON."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        result: str = connection.exec_driver_sql(statement, parameters).scalar_one()
    return result
