"""The sender of a request: the client's address, and whether it may see data meant for the operator."""

from __future__ import annotations

import hmac
from ipaddress import IPv4Address, IPv6Address, ip_address

from flask import request

from app.runtime import get_settings
from app.services.keys import find_known_key
from app.web.credentials import get_authorization

Address = IPv4Address | IPv6Address

# The headers by which proxies name the original client. nginx adds none unless told to, as in deploy/nginx.conf.
_FORWARDING_HEADERS = (
    "HTTP_X_FORWARDED_FOR",
    "HTTP_FORWARDED",
    "HTTP_X_REAL_IP",
    "HTTP_VIA",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_SERVER",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_CF_CONNECTING_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_X_CLIENT_IP",
    "HTTP_FLY_CLIENT_IP",
    "HTTP_X_ENVOY_EXTERNAL_ADDRESS",
    "HTTP_CDN_LOOP",
)

# More proxies than anybody has; entries further to the left are not read.
_MAX_PROXIES = 20


def get_client_address() -> str:
    """Returns the address of the client: the peer's or, if the peer is a trusted proxy, the one that it names.

    Each proxy appends the address of its own peer to X-Forwarded-For, and everything to the left of a trusted proxy's
    entry may be invented. So the list is read from the right, up to the first address that is not a trusted proxy's.
    """
    peer = request.environ.get("REMOTE_ADDR") or ""
    address = _parse(peer)
    if address is None or not _is_trusted(address):
        return peer if address is None else str(address)
    forwarded = request.environ.get("HTTP_X_FORWARDED_FOR", "")
    for text in reversed(forwarded.rsplit(",", _MAX_PROXIES)[-_MAX_PROXIES:]):
        named = _parse(text)
        if named is None:
            break
        address = named
        if not _is_trusted(address):
            break
    return str(address)


def _parse(text: str) -> Address | None:
    """Returns an address, with or without a port; None if it is none. An IPv4 client of an IPv6 socket is IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_trusted(address: Address) -> bool:
    return any(address in network for network in get_settings().trusted_proxies)


def is_for_operator() -> bool:
    """Returns whether the current request may see the gateway's internals: metrics, and the state of its components.

    Programs on the gateway's machine may, unless they are proxies that ask for another client, and so may everybody
    with METRICS_TOKEN or an operator's key. This causes no lookup, so it works without a database and nobody can cause
    queries with it; a new operator's key is in memory some seconds after it was made.
    """
    environ = request.environ
    peer = _parse(environ.get("REMOTE_ADDR") or "")
    if peer is not None and peer.is_loopback and not any(name in environ for name in _FORWARDING_HEADERS):
        return True
    authorization, expected = get_authorization(), get_settings().metrics_token
    scheme, _, token = (authorization or "").partition(" ")
    given = token.strip().encode("utf-8", "replace")
    if expected is not None and scheme.lower() == "bearer" and hmac.compare_digest(given, expected.encode()):
        return True
    key = find_known_key(authorization)
    return key is not None and key.is_operator
