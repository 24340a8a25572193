"""Makes and revokes gateway keys as `bin/gateway keys` does, without the second that its process takes to start."""

from __future__ import annotations

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app.db.keys import insert_key, update_key_revoked
from app.services.keys import digest_of, new_key


def make_key(url: str, name: str = "user") -> str:
    """Stores a new key in the database at `url` and returns it."""
    key, engine = new_key(), create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        insert_key(connection, id=key.split("_")[1], name=name, digest=digest_of(key), last_four=key[-4:])
    return key


def revoke(url: str, key: str) -> None:
    """Revokes a key of the database at `url`."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        assert update_key_revoked(connection, key.split("_")[1])
