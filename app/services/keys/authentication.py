"""Checks the gateway key of a request: in memory, or in the database if it is not in memory."""

from __future__ import annotations

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
        AuthenticationFailed: the key is missing, malformed, unknown or revoked.
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
    return _look_up(token, digest) if key is None else key


def _look_up(token: str, digest: bytes) -> Key:
    if not is_well_formed(token):
        hint = "Copy it again." if token.startswith(PREFIX) else "Use a gateway key, not the provider's."
        raise AuthenticationFailed(f"The gateway key is not valid. {hint}")
    key = get_component(KeyLookups).look_up(digest)
    if key is None:
        raise AuthenticationFailed("The gateway key is unknown or revoked. Ask the operator for a new one.")
    return key
