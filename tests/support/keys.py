"""Makes and revokes keys as an operator does, in a test's own process, whose settings name the database."""

from __future__ import annotations

from typing import Any

from app.services import administration
from app.services.administration import KeyView, NewKey

ACTOR = "cli:test"


def create_key(name: str, **fields: Any) -> tuple[str, KeyView]:
    """Makes a key and returns its caller's secret, and the key as operators see it; `fields` are those of NewKey."""
    made = administration.create_key(ACTOR, NewKey(name=name, **fields))
    return made.key, made.data


def revoke_key(id: str) -> KeyView:
    """Revokes a key."""
    return administration.revoke_key(ACTOR, id)
