"""Creates and recognises gateway keys.

A key is `gw_<public id>_<secret><checksum>`: a prefix that secret scanners can search for, an id that may be shown, and
a checksum that detects a mistyped key without asking the database. The secret has 190 random bits, so one round of
SHA-256 is enough to store it; slow hashes are for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import string
import zlib

import msgspec

from app.db import read_connection
from app.db.keys import KeyRow, select_key_exists
from app.errors import NotFound

PREFIX = "gw_"
_ALPHABET = string.digits + string.ascii_letters
_PUBLIC_ID_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 10, 32, 6  # 62^6 is just above the 2^32 values of CRC-32.
_FORM = re.compile(rf"gw_([0-9A-Za-z]{{{_PUBLIC_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}")


class Key(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key that is not revoked. Thousands are in memory, so the garbage collector skips them.

    Attributes:
        id: its public id.
        name: its name, chosen by its maker.
        expires_at: the Unix time, in seconds, from which on it does not work; None if it never expires.
        holder_id: the holder whose limits apply, as a key of the policies; "" if only the gateway's apply.
        is_operator: whether it has all rights.
    """

    id: str
    name: str
    expires_at: int | None = None
    holder_id: str = ""
    is_operator: bool = False


# The key of the setting GATEWAY_API_KEY.
OPERATOR_KEY = Key(id="env", name="GATEWAY_API_KEY", is_operator=True)


def make_key(row: KeyRow) -> Key:
    """Returns a stored key in its form for memory. Only the gateway's limits bind an operator's key."""
    return Key(
        id=row.id,
        name=row.name,
        expires_at=None if row.expires_at is None else math.floor(row.expires_at.timestamp()),
        holder_id="" if row.is_operator else row.holder_id or "",
        is_operator=row.is_operator,
    )


def new_key() -> str:
    """Returns a new random key without storing it."""
    stem = f"{PREFIX}{make_id()}_{_draw(_SECRET_LENGTH)}"
    return stem + _checksum(stem)


def make_id() -> str:
    """Returns a new random id: the public id of a key, or the id of a holder or group."""
    return _draw(_PUBLIC_ID_LENGTH)


def _draw(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(stem: str) -> str:
    value, digits = zlib.crc32(stem.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def is_well_formed(key: str) -> bool:
    """Returns whether `key` has the form and the checksum of a key; it may still be unknown."""
    return _FORM.fullmatch(key) is not None and _checksum(key[:-_CHECKSUM_LENGTH]) == key[-_CHECKSUM_LENGTH:]


def digest_of(key: str) -> bytes:
    """Returns the SHA-256 of the whole key, 32 bytes; keys are stored and looked up by it."""
    return hashlib.sha256(key.encode()).digest()


def raise_if_no_key(public_id: str) -> None:
    """Refuses the id of a key that never existed, because its empty statistics would look like those of an unused key.

    Raises:
        NotFound: no key has this id, neither a stored one, revoked or not, nor the operator's.
        DatabaseError: the database is unavailable or slow.
        SettingsError: DATABASE_URL is not set.
    """
    if public_id == OPERATOR_KEY.id:
        return
    with read_connection() as connection:
        if select_key_exists(connection, public_id):
            return
    raise NotFound(
        f"There is no key {public_id[:100]!r}. `bin/gateway keys list` or GET /api/keys shows the ids of all keys,"
        f" and {OPERATOR_KEY.id} is that of GATEWAY_API_KEY.",
        param="key",
        code="unknown_key",
    )
