"""Model lists for a scripted upstream to serve, and providers pointed at it in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from app.config import load_settings
from app.runtime import get_runtime, use_settings
from app.services.models.catalog import Catalogs
from app.services.providers import PROVIDERS
from tests.support.answers import json_answer
from tests.support.gateway import GATEWAY_KEY
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Exchange, Script

# The path of each provider's API at an upstream that serves all four, and at the sandbox.
BASE_PATHS = {
    "fireworks": "/inference/v1",
    "featherless": "/featherless/v1",
    "deepinfra": "/deepinfra/v1/openai",
    "chutes": "/chutes/v1",
}
PRICES_PATH = "/v1/serverless/models"
FIREWORKS_LIST = "/inference/v1/models"


def provider_environment(root: str, names: Sequence[str] = tuple(BASE_PATHS), key: str = "fw_test") -> dict[str, str]:
    """Returns the settings that configure these providers and point them below `root`."""
    environment = {"GATEWAY_API_KEY": GATEWAY_KEY}
    for name in names:
        environment[f"{name.upper()}_API_KEY"] = key
        environment[f"{name.upper()}_BASE_URL"] = root + BASE_PATHS[name]
    return environment


@contextmanager
def catalogs_of(environment: dict[str, str]) -> Iterator[None]:
    """Gives this process these settings and a new runtime, so that no lists or prices leak in or out."""
    use_settings(load_settings(environment))
    try:
        yield
    finally:
        if (catalogs := get_runtime().find(Catalogs)) is not None:
            for provider in PROVIDERS.values():
                if (fetch := catalogs.get_catalog(provider).fetch_under_way) is not None:
                    # Otherwise a fetch that is about to end could send its next request during another test.
                    fetch.done.wait(0.3)
        use_settings(None)


def root_of(upstream: ScriptedUpstream) -> str:
    """Returns the upstream's address without a path."""
    return f"http://127.0.0.1:{upstream.port}"


def fireworks_rows(*slugs: str) -> list[dict[str, Any]]:
    """Returns entries as Fireworks lists them."""
    return [
        {
            "id": f"accounts/fireworks/models/{slug}",
            "object": "model",
            "owned_by": "fireworks",
            "created": 1_786_406_400,
            "kind": "HF_BASE_MODEL",
            "supports_chat": True,
            "supports_image_input": False,
            "supports_tools": True,
            "context_length": 131_072,
        }
        for slug in slugs
    ]


def plain_rows(*ids: str) -> list[dict[str, Any]]:
    """Returns entries with only an id, which the normaliser of every provider accepts."""
    return [{"id": model_id, "object": "model"} for model_id in ids]


def list_answer(rows: object) -> Script:
    """Returns the script of a model list."""
    return json_answer({"object": "list", "data": rows})


def pages_answer(pages: Sequence[Sequence[dict[str, Any]]]) -> Script:
    """Returns the script of a paged list; the query's `page` counts from 1, and pages beyond the last are empty."""

    def step(exchange: Exchange) -> None:
        assert exchange.seen is not None
        number = int(parse_qs(urlsplit(exchange.seen.path).query)["page"][0])
        rows = pages[number - 1] if number <= len(pages) else []
        for part in list_answer(rows):
            part(exchange)

    return [step]


def price_row(model_id: str, prompt: str, cached: str | None, completion: str, **more: Any) -> dict[str, Any]:
    """Returns a row of Fireworks' price list, in USD per 1M tokens; `more` are further fields."""
    amounts = {
        "LLM input tokens (uncached)": prompt,
        "LLM input tokens (cached)": cached,
        "LLM output tokens": completion,
    }
    pricing_rows = [{"sku": sku, "amount": amount, "unit": "1M tokens"} for sku, amount in amounts.items() if amount]
    return {"id": model_id, "object": "model", "serverless_mode": "standard", "pricing": pricing_rows} | more


def seen_at(upstream: ScriptedUpstream, path: str) -> list[SeenRequest]:
    """Returns the requests for exactly this path, with any query."""
    return [seen for seen in upstream.requests if seen.path.partition("?")[0] == path]
