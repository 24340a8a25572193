"""Which routes require a gateway key: each blueprint has an Access value, and each value has its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from flask import g, request

from app.runtime import get_settings
from app.services.keys import authenticate

# "key": a gateway key is required. "open": none is. "public_stats": one is, unless PUBLIC_STATS is true.
Access = Literal["key", "open", "public_stats"]


def require_key() -> None:
    """Authenticates the caller and sets `g.key` to their gateway key.

    Raises:
        AuthenticationFailed: the key is missing, malformed, unknown or revoked.
        Unavailable: the key cannot be looked up now.
    """
    g.key = authenticate(request.headers.get("Authorization"))


def _require_key_for_stats() -> None:
    if not get_settings().public_stats:
        require_key()


# Functions that run before each route of a blueprint.
CHECKS: dict[Access, list[Callable[[], None]]] = {
    "open": [],
    "key": [require_key],
    "public_stats": [_require_key_for_stats],
}
