"""Rows of activity for tests, in the form of a journal's lines."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, text

from app.db.activity import insert_activity
from app.db.keys import insert_key

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)

Row = dict[str, Any]


def make_row(**changes: Any) -> Row:
    """Returns a successful request at NOON; `after_s` shifts it, any other argument replaces a column."""
    started_at = NOON + timedelta(seconds=changes.pop("after_s", 0))
    row: Row = {
        "request_id": uuid.uuid4(),
        "started_at": started_at,
        "key_id": "key-1",
        "gateway": "fireworks",
        "endpoint": "/v1/chat/completions",
        "model_requested": "example",
        "model_served": "accounts/fireworks/models/example",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "cached_tokens": 20,
        "reasoning_tokens": None,
        "usage_source": "provider",
        "cost_usd": Decimal("0.000123456789012"),
        "cost_kind": "exact",
        "duration_ms": 1500.0,
        "ttft_ms": 500.0,
        "tokens_per_second": 50.0,
        "finish_reason": "stop",
        "attempts": [{"provider": "fireworks", "model": "accounts/fireworks/models/example", "status": 200}],
    }
    return row | changes


def encode(rows: Iterable[Row]) -> list[bytes]:
    """Returns the rows as a journal's lines hold them."""
    return [json.dumps(row, default=_plain).encode() for row in rows]


def insert_rows(engine: Engine, rows: Iterable[Row]) -> int:
    """Inserts rows as one batch and returns how many were new."""
    return insert_activity(engine, encode(rows))


def insert_keys(engine: Engine, *ids: str) -> None:
    """Stores keys with these ids; no secret belongs to them."""
    with engine.begin() as connection:
        for id in ids:
            insert_key(connection, id=id, name=id, digest=hashlib.sha256(id.encode()).digest(), last_four="none")


def count(engine: Engine, table: str) -> int:
    """Returns the number of a table's rows."""
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def contents(engine: Engine, *tables: str) -> dict[str, list[str]]:
    """Returns every row of the tables as sorted text, to compare before and after."""
    with engine.connect() as connection:
        return {
            table: sorted(connection.execute(text(f"SELECT t::text FROM {table} AS t")).scalars()) for table in tables
        }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
