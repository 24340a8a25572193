"""Checks each provider with a key: its name, its port, its certificate, each key, and its list of models."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Collection, Iterator
from urllib.parse import SplitResult, urlsplit

from app.doctor.results import Result, fail, ok, warn
from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamSuspended
from app.runtime import get_settings
from app.services.providers import PROVIDERS, Provider
from app.upstream import UpstreamClient, get_tls_context

_TIMEOUT_S = 10.0
# Certificates with automatic renewal are renewed about 30 days before they expire.
_SOON_DAYS = 14


def check_providers(mistaken: Collection[str]) -> Iterator[Result]:
    """Yields the results for each provider that has a key.

    Args:
        mistaken: the names of unreadable settings; a provider whose address is among them is left out.
    """
    for provider in PROVIDERS.values():
        if _get_address_setting(provider) in mistaken:
            continue
        for number, key in enumerate(provider.get_api_keys(get_settings()), 1):
            if number == 1:
                problem = _find_connection_problem(provider)
                if problem is not None:
                    yield problem
                    break
            yield _check_key(provider, key, number)


def _get_address_setting(provider: Provider) -> str:
    return f"{provider.name}_base_url".upper()


def _find_connection_problem(provider: Provider) -> Result | None:
    setting = _get_address_setting(provider)
    url = urlsplit(provider.get_base_url(get_settings()))
    host, port = str(url.hostname), url.port or (443 if url.scheme == "https" else 80)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return fail(provider.name, f"DNS knows no {host} ({error.strerror}). Correct {setting}, or this machine's DNS.")
    try:
        connection = socket.create_connection((str(addresses[0][4][0]), port), timeout=_TIMEOUT_S)
    except OSError as error:
        return fail(
            provider.name,
            f"no connection to {host}:{port} ({error.strerror or error}). Open the firewall, or correct {setting}.",
        )
    with connection:
        return _find_certificate_problem(provider, url, connection) if url.scheme == "https" else None


def _find_certificate_problem(provider: Provider, url: SplitResult, connection: socket.socket) -> Result | None:
    try:
        with get_tls_context().wrap_socket(connection, server_hostname=url.hostname) as wrapped:
            certificate = wrapped.getpeercert() or {}
    except OSError as error:
        return fail(
            provider.name,
            f"TLS to {url.hostname} fails ({getattr(error, 'verify_message', None) or error}). Correct this machine's"
            " clock or certificates, or the proxy between.",
        )
    ends_s = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = (ends_s - time.time()) / 86_400
    if days < _SOON_DAYS:
        return warn(provider.name, f"the certificate of {url.hostname} ends in {days:.0f} days. Tell {provider.title}.")
    return None


def make_client(provider: Provider, key: str) -> UpstreamClient:
    """Returns a client with one of the provider's keys; the caller closes it."""
    settings = get_settings()
    return UpstreamClient(
        title=provider.title,
        base_url=provider.get_base_url(settings),
        api_keys=[key],
        key_setting=provider.key_setting,
        settings=settings,
        request_id_headers=provider.request_id_headers,
    )


def _check_key(provider: Provider, key: str, number: int) -> Result:
    client = make_client(provider, key)
    name = f"{provider.key_setting}, key {number}"
    try:
        if provider.probe is not None:
            provider.probe(client, _TIMEOUT_S)
        models = len(next(iter(provider.fetch_pages(client)), []))
    except UpstreamAuthenticationFailed:
        return fail(provider.name, f"{provider.title} refuses {name}. Copy it again, or make another one there.")
    except UpstreamSuspended as error:
        return fail(provider.name, f"{name}: {error.message} Look into the account at {provider.site_url}.")
    except UpstreamError as error:
        if _is_of_wrong_address(error):
            return _blame_address(provider, client.base_url, error)
        return warn(provider.name, f"{name}: {error.message}")
    finally:
        client.close()
    accepted = (
        "is accepted" if provider.probe is not None else "is set (only a paid request shows whether it works: --paid)"
    )
    return ok(provider.name, f"{name} {accepted}, the list begins with {models} models")


def _is_of_wrong_address(error: UpstreamError) -> bool:
    """Returns whether the answer is not from the provider's API: a page, or a report that there is no such path."""
    if error.upstream_status is None:
        return type(error) is UpstreamError
    return 300 <= error.upstream_status < 400 or error.upstream_status in {404, 405, 410}


def _blame_address(provider: Provider, address: str, error: UpstreamError) -> Result:
    seen = "no list of models" if error.upstream_status is None else f"status {error.upstream_status}"
    return fail(
        provider.name,
        f"what answers at {address} is not {provider.title}'s API ({seen}). Correct {_get_address_setting(provider)};"
        " .env has the usual one.",
    )
