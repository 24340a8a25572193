"""Checks the gateway key of a request: in memory, or in the database if it is not in memory."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from app.errors import AuthenticationFailed
from app.runtime import get_component
from app.services.keys.keys import PREFIX, Key, digest_of, is_well_formed
from app.services.keys.lookups import KeyLookups
from app.services.keys.snapshot import KeySnapshot


def authenticate(authorization: str | None) -> Key:
    """Returns the key of a request.

    Args:
        authorization: the value of the Authorization header, `Bearer <key>`; None when there is none.

    Raises:
        AuthenticationFailed: the key is missing, malformed, unknown, revoked or expired.
        Unavailable: the key is not in memory and the database does not answer.
    """
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise AuthenticationFailed(
            "No gateway key given. Send the header `Authorization: Bearer <your gateway key>`, or `x-api-key`.",
            code="missing_api_key",
        )
    digest = digest_of(token)
    key = get_component(KeySnapshot).get(digest)
    if key is None:
        key = _look_up(token, digest)
    if key.expires_at is not None and time.time() >= key.expires_at:
        raise _make_expired(key.expires_at)
    return key


def find_known_key(authorization: str | None) -> Key | None:
    """Returns the key of a request if it is in memory and has not expired, without asking the database; else None.

    Args:
        authorization: as in `authenticate`.
    """
    scheme, _, token = (authorization or "").partition(" ")
    key = get_component(KeySnapshot).get(digest_of(token.strip())) if scheme.lower() == "bearer" else None
    return None if key is None or (key.expires_at is not None and time.time() >= key.expires_at) else key


def find_key(digest: bytes) -> Key | None:
    """Returns the key with this digest if it works, without the key itself; else None.

    Args:
        digest: its SHA-256, 32 bytes.

    Raises:
        Unavailable: it is not in memory and the database does not answer.
    """
    key = get_component(KeySnapshot).get(digest) or get_component(KeyLookups).look_up(digest)
    return None if key is None or (key.expires_at is not None and time.time() >= key.expires_at) else key


def _make_expired(expires_at: int) -> AuthenticationFailed:
    when = datetime.fromtimestamp(expires_at, UTC).isoformat().replace("+00:00", "Z")
    return AuthenticationFailed(
        f"The gateway key expired at {when}. Use the one that replaces it, or ask the operator for a new one.",
        code="key_expired",
    )


def _look_up(token: str, digest: bytes) -> Key:
    if not is_well_formed(token):
        hint = "Copy it again." if token.startswith(PREFIX) else "Use a gateway key, not the provider's."
        raise AuthenticationFailed(f"The gateway key is not valid. {hint}")
    key = get_component(KeyLookups).look_up(digest)
    if key is None:
        raise AuthenticationFailed("The gateway key is unknown or revoked. Ask the operator for a new one.")
    return key
