"""Sends one chat request of one token with each provider's key. It costs a fraction of a cent, and has no record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from app.doctor.provider_checks import make_client
from app.doctor.results import Result, fail, ok, warn
from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamSuspended
from app.runtime import get_settings
from app.services.providers import PROVIDERS, Provider
from app.upstream import UpstreamClient

_CHAT = "chat"
_MAX_BYTES = 1 << 20
_TIMEOUT_S = 60.0


def check_paid_requests() -> Iterator[Result]:
    """Yields the result for each key of each provider that serves chats."""
    settings = get_settings()
    for provider in PROVIDERS.values():
        if _CHAT not in provider.serves:
            continue
        for number, key in enumerate(provider.get_api_keys(settings), 1):
            client = make_client(provider, key)
            try:
                yield _ask(provider, client, f"{provider.key_setting}, key {number}")
            finally:
                client.close()


def _ask(provider: Provider, client: UpstreamClient, name: str) -> Result:
    check = f"{provider.name} paid"
    try:
        model = _choose_model(provider, client)
        if model is None:
            return warn(check, f"{name}: the list of models has none for chats. Ask {provider.title} why.")
        answer = _send(provider, client, model)
    except UpstreamAuthenticationFailed:
        return fail(check, f"{provider.title} refuses {name}. Copy it again, or make another one there.")
    except UpstreamSuspended as error:
        return fail(check, f"{name}: {error.message} Look into the account at {provider.site_url}.")
    except UpstreamError as error:
        return fail(check, f"{name}: a request of one token fails: {error.message}")
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict) or not usage.get("completion_tokens"):
        return warn(check, f"{name}: the answer of {model} has no usage, so costs would be estimates.")
    return ok(check, f"{name}: {model} answered with {usage['completion_tokens']} tokens")


def _choose_model(provider: Provider, client: UpstreamClient) -> str | None:
    """Returns the cheapest chat model on the first page of the list; models without a price come last."""
    entries = [provider.normalize(raw) for raw in next(iter(provider.fetch_pages(client)), [])]
    chatting = [entry for entry in entries if entry["capabilities"]["chat"] is not False]
    return str(min(chatting, key=_get_price)["id"]) if chatting else None


def _get_price(entry: Mapping[str, Any]) -> Decimal:
    price = entry["pricing"]["prompt"]
    return Decimal("Infinity") if price is None else Decimal(price)


def _send(provider: Provider, client: UpstreamClient, model: str) -> Any:
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    response = client.post(
        provider.serves[_CHAT].path, json.dumps(body).encode(), stream=False, first_byte_timeout_s=_TIMEOUT_S
    )
    return response.read_json(idle_timeout_s=_TIMEOUT_S, deadline_s=time.monotonic() + _TIMEOUT_S, max_bytes=_MAX_BYTES)
