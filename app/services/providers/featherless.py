"""Featherless: thousands of Hugging Face models for a flat price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.errors import UpstreamError
from app.services.pricing import Billing
from app.services.providers.entry_fields import (
    COMMON_PARAMETERS,
    Entry,
    make_entry,
    make_parameters,
    read_count,
    read_flag,
    read_mapping,
    read_usd_per_token,
    read_words,
)
from app.services.providers.naming import make_hugging_face_naming
from app.services.providers.pages import PAGE_TIMEOUT_S, Page, read_page
from app.services.providers.provider import (
    ANTHROPIC_ONLY_FIELDS,
    OPEN_TOP_K,
    OPENAI_ONLY_FIELDS,
    OPENAI_ONLY_NESTED_FIELDS,
    EndpointSupport,
    Provider,
)
from app.services.providers.weights import read_weights
from app.upstream import UpstreamClient

_PER_PAGE = 1_000  # The most that Featherless returns.

# Only an empty page marks the end. The list has 23 pages; with more than four times as many, something is wrong.
_MAX_PAGES = 100


def fetch_pages(client: UpstreamClient) -> Iterator[Page]:
    """Yields page after page without an end of its own, because `total_pages` also counts unlisted models.

    Raises:
        UpstreamError: a request failed, or there are more than _MAX_PAGES pages.
    """
    for number in range(1, _MAX_PAGES + 1):
        params = {"page": str(number), "per_page": str(_PER_PAGE)}
        yield read_page(client, client.fetch_json("/models", params, timeout_s=PAGE_TIMEOUT_S))
    raise UpstreamError(f"The model list of {client.title} has no end: page {_MAX_PAGES} still contains models.")


def normalize_featherless_model(raw: Mapping[str, Any]) -> Entry:
    """Returns Featherless' entry in the catalog's form. `pricing.prompt` is a string in USD per token."""
    pricing = read_mapping(raw.get("pricing"))
    words = read_words(raw.get("output_modalities"))
    outputs = ["embeddings" if word == "embedding" else word for word in words or ["text"]]
    embeds = "embeddings" in outputs
    tools = read_flag(read_mapping(raw.get("features")).get("tool_use"))
    inputs = read_words(raw.get("input_modalities"))
    sees = read_flag(raw.get("vision_supported"), "image" in inputs if inputs else None)
    return make_entry(
        PROVIDER,
        str(raw["id"]),
        raw,
        context_length=read_count(raw.get("context_length")),
        max_output_tokens=read_count(raw.get("max_completion_tokens")),
        inputs=inputs or (["text", "image"] if sees else ["text"]),
        outputs=outputs,
        prices=(read_usd_per_token(pricing.get("prompt")), read_usd_per_token(pricing.get("completion")), None),
        parameters=[] if embeds else make_parameters(COMMON_PARAMETERS, tools),
        # Base checkpoints are listed among the chat models and cannot be distinguished, so `chat` is unknown.
        capabilities=(False if embeds else None, tools, sees, embeds if words else None, False),
        weights=read_weights(raw["id"]),
    )


def probe(client: UpstreamClient, timeout_s: float) -> None:
    """Fetches the account's use of its concurrency, which requires a valid key; the list of models is public.

    Raises:
        UpstreamError: the request failed.
    """
    client.fetch_json(client.base_url.removesuffix("/v1") + "/account/concurrency", timeout_s=timeout_s)


PROVIDER = Provider(
    name="featherless",
    title="Featherless",
    site_url="https://featherless.ai",
    serves={
        "chat": EndpointSupport(
            path="/chat/completions",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS,
            dropped_nested_fields=OPENAI_ONLY_NESTED_FIELDS,
            accepts_null_in_messages=False,  # `"tool_calls": null` fails.
            ranges={"top_k": OPEN_TOP_K},
        ),
        "completions": EndpointSupport(
            path="/completions",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS,
            dropped_nested_fields=OPENAI_ONLY_NESTED_FIELDS,
            renamed_fields={"max_completion_tokens": "max_tokens"},
            accepts_null=False,
            ranges={"top_k": OPEN_TOP_K},
        ),
        "embeddings": EndpointSupport(
            path="/embeddings",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS,
            accepts_null=False,
        ),
    },
    fetch_pages=fetch_pages,
    is_paged=True,
    normalize=normalize_featherless_model,
    naming=make_hugging_face_naming(),
    billing=Billing(name="featherless"),
    probe=probe,
)
