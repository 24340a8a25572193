"""Chutes: language models on machines of independent operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.services.pricing import Billing
from app.services.providers.entry_fields import (
    Entry,
    get_owner,
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
    OPENAI_LIMIT_HEADERS,
    OPENAI_ONLY_FIELDS,
    OPENAI_ONLY_NESTED_FIELDS,
    EndpointSupport,
    Provider,
)
from app.services.providers.weights import read_stated_weights

# The ending of ids of models in confidential computing. Their weights are those of the id without it.
_CONFIDENTIAL = "-TEE"


def normalize_chutes_model(raw: Mapping[str, Any]) -> Entry:
    """Returns Chutes' entry in the catalog's form. `pricing.prompt` is a *number* in USD per million tokens.

    The list has only language models. `created` is the time of the list's last refresh, so it is left out.
    """
    pricing = read_mapping(raw.get("pricing"))
    inputs = read_words(raw.get("input_modalities"))
    features = raw.get("supported_features")
    tools = "tools" in features if isinstance(features, list) else None
    parameters = read_words(raw.get("supported_sampling_parameters"))
    return make_entry(
        PROVIDER,
        str(raw["id"]),
        {**raw, "created": None},
        # `context_length` may be below the engine's own limit, `max_model_len`; the lower one is enforced.
        context_length=read_count(raw.get("context_length")) or read_count(raw.get("max_model_len")),
        max_output_tokens=read_count(raw.get("max_output_length")),
        inputs=inputs or ["text"],
        outputs=read_words(raw.get("output_modalities")) or ["text"],
        prices=(
            read_usd_per_million(pricing.get("prompt")),
            read_usd_per_million(pricing.get("completion")),
            read_usd_per_million(pricing.get("input_cache_read")),
        ),
        parameters=make_parameters(parameters, tools) if parameters else None,
        capabilities=(True, tools, "image" in inputs if inputs else None, False, False),
        # A few ids contain no owner; `root` names the weights, with the owner first.
        publisher=get_owner(str(raw["id"])) or get_owner(read_text(raw.get("root")) or ""),
        weights=read_stated_weights(str(raw["id"]), raw.get("root"), mode=_CONFIDENTIAL),
        quantization=raw.get("quantization"),
    )


def is_confidential(name: str) -> bool:
    """Returns whether a model runs in confidential computing."""
    return name.endswith(_CONFIDENTIAL)


def is_unlisted(name: str) -> bool:
    """Returns whether `name` has a form that Chutes accepts without listing it.

    These are pools (`a,b:latency`), `:THINKING`, and names without an owner: a chute's UUID, an account's own alias.
    """
    return ":" in name or "," in name or "/" not in name


_CHAT = EndpointSupport(
    path="/chat/completions",
    dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS,
    dropped_nested_fields=OPENAI_ONLY_NESTED_FIELDS,
    renamed_fields={"max_completion_tokens": "max_tokens"},
    ranges={"top_k": OPEN_TOP_K},
)

PROVIDER = Provider(
    name="chutes",
    title="Chutes",
    site_url="https://chutes.ai",
    serves={
        "chat": _CHAT,
        "completions": replace(_CHAT, path="/completions"),
    },
    fetch_pages=fetch_single_page,
    normalize=normalize_chutes_model,
    naming=make_hugging_face_naming(is_unlisted, is_confidential),
    billing=Billing(name="chutes"),
    shown_headers=OPENAI_LIMIT_HEADERS
    | {"x-chutes-quota-total", "x-chutes-quota-used", "x-chutes-quota-remaining", "x-chutes-rl-user"},
    # No probe: Chutes' account API is on another host, and the key is sent to no other host.
    request_id_headers=("x-request-id", "x-chutes-invocationid", "cf-ray"),
)
