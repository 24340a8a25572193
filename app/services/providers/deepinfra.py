"""DeepInfra: Hugging Face models, billed per token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from app.services.pricing import Billing
from app.services.providers.bill import BillSource
from app.services.providers.entry_fields import (
    COMMON_PARAMETERS,
    Entry,
    make_entry,
    make_parameters,
    read_count,
    read_mapping,
    read_text,
    read_usd_per_million,
    read_words,
)
from app.services.providers.naming import make_hugging_face_naming
from app.services.providers.pages import fetch_single_page
from app.services.providers.provider import (
    ANTHROPIC_ONLY_FIELDS,
    OPEN_TOP_K,
    OPENAI_ONLY_FIELDS,
    OPENAI_ONLY_NESTED_FIELDS,
    EndpointSupport,
    Provider,
)
from app.services.providers.weights import read_stated_weights
from app.upstream import UpstreamClient

_CHAT_PARAMETERS = (*COMMON_PARAMETERS, "logprobs", "n", "reasoning_effort", "response_format")

# The tags that state the kind of a model, each with its input and output modalities.
_KINDS: Mapping[str, tuple[list[str], list[str]]] = {
    "chat": (["text"], ["text"]),
    "embed": (["text"], ["embeddings"]),
    "rerank": (["text"], ["rerank"]),
    "image-gen": (["text"], ["image"]),
    "video-gen": (["text"], ["video"]),
    "tts": (["text"], ["audio"]),
    "stt": (["audio"], ["text"]),
}


def normalize_deepinfra_model(raw: Mapping[str, Any]) -> Entry:
    """Returns DeepInfra's entry in the catalog's form. `metadata.pricing` holds numbers in USD per million tokens.

    `metadata` may be null; then only the id is known. `created` is 0 if unknown.
    """
    metadata = read_mapping(raw.get("metadata"))
    tags = read_words(metadata.get("tags"))
    kind = next((kind for kind in _KINDS if kind in tags), None)
    inputs, outputs = _KINDS[kind] if kind else (None, None)
    sees = bool({"vlm", "vision"} & set(tags)) if kind else None
    return make_entry(
        PROVIDER,
        str(raw["id"]),
        raw,
        description=read_text(metadata.get("description")),
        context_length=read_count(metadata.get("context_length")),
        inputs=inputs and ([*inputs, "image"] if sees else inputs),
        outputs=outputs,
        prices=_read_prices(read_mapping(metadata.get("pricing")), kind),
        parameters=make_parameters(_CHAT_PARAMETERS, None) if kind == "chat" else None,
        capabilities=_get_capabilities(kind, sees),
        weights=read_stated_weights(str(raw["id"]), raw.get("root")),
    )


def _read_prices(pricing: Mapping[str, Any], kind: str | None) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    completion = read_usd_per_million(pricing.get("output_tokens"))
    if kind in ("embed", "rerank") and completion is None:
        completion = Decimal(0)  # They produce no completion tokens, so the list omits that price.
    prompt, cached = pricing.get("input_tokens"), pricing.get("cache_read_tokens")
    return read_usd_per_million(prompt), completion, read_usd_per_million(cached)


def _get_capabilities(kind: str | None, sees: bool | None) -> tuple[bool | None, ...]:
    if kind is None:
        return (None,) * 5
    # No tag states whether a model supports tools; only models without chat certainly do not.
    return kind == "chat", None if kind == "chat" else False, sees, kind == "embed", kind == "rerank"


def is_unlisted(name: str) -> bool:
    """Returns whether DeepInfra accepts a name of this form without listing it: `MODEL:VERSION`, `deploy_id:ID`."""
    return ":" in name


def probe(client: UpstreamClient, timeout_s: float) -> None:
    """Fetches the account's rate limit, which requires a valid key; DeepInfra's list of models is public.

    Raises:
        UpstreamError: the request failed.
    """
    client.fetch_json(client.base_url.removesuffix("/openai") + "/me/rate_limit", timeout_s=timeout_s)


def _make_inference_url(base_url: str, model: str) -> str:
    """Returns the URL of DeepInfra's own API for a model; that API is beside the OpenAI-compatible one."""
    return f"{base_url.removesuffix('/openai')}/inference/{quote(model, safe='/:')}"


def _write_rerank_request(body: dict[str, Any]) -> dict[str, Any]:
    """Returns a request for scores: documents, and the query repeated for each of them."""
    others = {name: value for name, value in body.items() if name not in {"model", "query"}}
    return {**others, "queries": [body["query"]] * len(body["documents"])}


def _read_rerank_response(response: Any) -> Any:
    """Converts scores, in the order of the documents, to a ranking in the endpoint's form."""
    scores = response.get("scores") if isinstance(response, dict) else None
    if not isinstance(scores, list):
        return response
    # A single list of scores, one for each document, is wrapped in another list.
    flat = scores[0] if len(scores) == 1 and isinstance(scores[0], list) else scores
    # Its own API states the cost of a request; in the OpenAI-compatible one it is part of the usage.
    cost = read_mapping(response.get("inference_status")).get("cost")
    return {
        "id": response.get("request_id"),
        "results": [{"index": index, "relevance_score": score} for index, score in enumerate(flat)],
        "usage": {"prompt_tokens": response.get("input_tokens"), "estimated_cost": cost},
    }


_CHAT = EndpointSupport(
    path="/chat/completions",
    dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS,
    dropped_nested_fields=OPENAI_ONLY_NESTED_FIELDS,
    renamed_fields={"max_completion_tokens": "max_tokens"},
    ranges={"top_k": OPEN_TOP_K},
)

PROVIDER = Provider(
    name="deepinfra",
    title="DeepInfra",
    site_url="https://deepinfra.com",
    serves={
        "chat": _CHAT,
        "completions": replace(_CHAT, path="/completions"),
        "embeddings": EndpointSupport(
            path="/embeddings",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS,
            ranges={"dimensions": (32, math.inf)},
            accepts_null=False,  # `"encoding_format": null` fails.
        ),
        "rerank": EndpointSupport(
            path="",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS | {"user"},
            accepts_null=False,
            renamed_fields={"task": "instruction"},
            make_url=_make_inference_url,
            write_request=_write_rerank_request,
            read_response=_read_rerank_response,
        ),
    },
    fetch_pages=fetch_single_page,
    normalize=normalize_deepinfra_model,
    naming=make_hugging_face_naming(is_unlisted),
    billing=Billing(name="deepinfra"),
    probe=probe,
    # It has no bill that programs can read, but each answer states its cost.
    bill=BillSource(
        fetch=None, key_setting=None, tokens_settle_after=timedelta(hours=1), costs_settle_after=timedelta(hours=1)
    ),
)
