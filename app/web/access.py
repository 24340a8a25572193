"""The routes that require a gateway key: each blueprint has an Access value, and each value has its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from flask import g

from app.errors import AuthenticationFailed, PermissionDenied
from app.runtime import get_settings
from app.services.keys import authenticate
from app.web.application import get_state
from app.web.client_address import is_for_operator
from app.web.credentials import get_authorization, has_credentials

# "key": a gateway key is required. "open": none is. "public_stats": one is, unless PUBLIC_STATS is true; a key that is
# sent must be valid, because it decides whose requests are counted. "operator": METRICS_TOKEN or an operator's key is
# required, except from programs on the gateway's machine. "operators_key": an operator's key is, from everywhere.
Access = Literal["key", "open", "public_stats", "operator", "operators_key"]


def require_key() -> None:
    """Authenticates the caller, by `Authorization` or else `x-api-key`, and sets `g.key` to their gateway key.

    Raises:
        AuthenticationFailed: the key is missing, malformed, unknown, revoked or expired.
        Unavailable: the key cannot be looked up now.
    """
    get_state().key = authenticate(get_authorization())


def _require_key_for_stats() -> None:
    """Sets `g.key` to the caller's gateway key, or to None if there is none and none is required."""
    if get_settings().public_stats and not has_credentials():
        g.key = None
        return
    require_key()


def _require_operator() -> None:
    if not is_for_operator():
        raise AuthenticationFailed(
            "This path is for the operator. Send `Authorization: Bearer` with METRICS_TOKEN or the operator's key, or"
            " call it on the gateway's own machine without a proxy."
        )


def _require_operators_key() -> None:
    require_key()
    if not g.key.is_operator:
        raise PermissionDenied(
            "Keys, groups, budgets, the audit and workers are for operators. Use GATEWAY_API_KEY, or a key that was"
            " made for an operator (`bin/gateway keys create NAME --operator`)."
        )


# Functions that run before each route of a blueprint.
CHECKS: dict[Access, list[Callable[[], None]]] = {
    "open": [],
    "key": [require_key],
    "public_stats": [_require_key_for_stats],
    "operator": [_require_operator],
    "operators_key": [_require_operators_key],
}
