"""Fireworks: model ids below accounts, a separate price list, and a stricter request schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.services.providers.entry_fields import (
    COMMON_PARAMETERS,
    Entry,
    make_entry,
    make_parameters,
    read_count,
    read_date,
    read_flag,
)
from app.services.providers.fireworks_bill import BILL, make_name_headers
from app.services.providers.fireworks_names import NAMING, get_weights
from app.services.providers.fireworks_prices import BILLING, fetch_prices
from app.services.providers.pages import fetch_single_page
from app.services.providers.provider import (
    ANTHROPIC_ONLY_FIELDS,
    OPENAI_LIMIT_HEADERS,
    OPENAI_ONLY_FIELDS,
    OPENAI_ONLY_NESTED_FIELDS,
    EndpointSupport,
    Provider,
)
from app.services.providers.schema import make_schema
from app.upstream import UpstreamClient

# Fireworks forbids every other field at every level. Clients send back parts of earlier responses, with fields of their
# SDK or of another provider: `refusal`, `annotations`, `parsed`, `reasoning`, `cache_control` and more.
_MEDIUM = make_schema("url", "detail", "max_frames", "sample_fps", "spatial_limit")
_MESSAGE_SCHEMA = make_schema(
    "role",
    "reasoning_content",
    "tool_call_id",
    content=make_schema("type", "text", image_url=_MEDIUM, video_url=_MEDIUM, audio_url=_MEDIUM),
    tool_calls=make_schema("id", "type", "index", function=make_schema("name", "arguments")),
)

# Keys of Anthropic's tools, which Fireworks also refuses in tools of chat requests.
_ANTHROPIC_TOOL_FIELDS = frozenset(
    {"allowed_callers", "cache_control", "defer_loading", "eager_input_streaming", "input_examples"}
)

# A larger unstreamed request gets a 400: "Requests with max_tokens > 4096 must have stream=true".
_MAX_UNSTREAMED_TOKENS = 4096

_SERVICE_TIERS = {"service_tier": frozenset({"auto", "default", "flex", "priority"})}

_CHAT_PARAMETERS = (
    *COMMON_PARAMETERS,
    "logit_bias",
    "logprobs",
    "n",
    "reasoning_effort",
    "response_format",
    "top_logprobs",
)

# `supports_chat` is also true for embedding and reranking models, so `kind` decides first.
_OUTPUTS = {"EMBEDDING_MODEL": "embeddings", "FLUMINA_BASE_MODEL": "image", "FLUMINA_ADDON": "image"}


def normalize_fireworks_model(raw: Mapping[str, Any]) -> Entry:
    """Returns Fireworks' entry in the catalog's form. Its model list states no prices."""
    model_id = str(raw["id"])
    account, slash, slug = model_id.removeprefix("accounts/").replace("/models/", "/").partition("/")
    if not slash:
        account, slug = "", account
    output = _OUTPUTS.get(str(raw.get("kind")), "text")
    rerank = output == "embeddings" and "rerank" in slug.lower()
    chats = read_flag(raw.get("supports_chat")) if output == "text" else False
    tools = read_flag(raw.get("supports_tools")) if output == "text" else False
    sees = read_flag(raw.get("supports_image_input")) if output == "text" else False
    # A text kind does not tell whether a model also makes embeddings.
    embeds = None if output == "text" else output == "embeddings" and not rerank
    return make_entry(
        PROVIDER,
        model_id,
        raw,
        canonical_slug=f"{account}/{slug}".strip("/").lower(),
        name=slug or model_id,
        context_length=read_count(raw.get("context_length")),
        inputs=["text", "image"] if sees else ["text"],
        outputs=["rerank"] if rerank else [output],
        parameters=make_parameters(_CHAT_PARAMETERS, tools) if chats else [],
        capabilities=(chats, tools, sees, embeds, rerank),
        publisher=account or PROVIDER.name,
        weights=get_weights(model_id, raw.get("kind")),
        expiration_date=read_date(raw.get("deprecationDate")),
    )


def probe(client: UpstreamClient, timeout_s: float) -> None:
    """Fetches the list of models, which Fireworks refuses with 401 for a wrong key and 412 for a suspended account.

    Raises:
        UpstreamError: the request failed.
    """
    client.fetch_json("/models", timeout_s=timeout_s)


def get_generation_s(headers: Mapping[str, str]) -> float | None:
    """Returns how long Fireworks generated, in seconds, from its two timing headers; None if they are missing."""
    try:
        total_s = float(headers["fireworks-server-processing-time"])
        return max(total_s - float(headers["fireworks-server-time-to-first-token"]), 0.0) or None
    except (KeyError, ValueError):
        return None


def _write_rerank_request(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "return_documents": False}  # Otherwise it sends all of them back.


def _read_rerank_response(response: Any) -> Any:
    """Converts a Fireworks ranking, whose results are in `data`, to the endpoint's form."""
    if isinstance(response, dict) and "results" not in response:
        return {**response, "results": response.get("data")}
    return response


# Listed one by one, because others with the same prefixes name the account's deployment, a host and its load.
_SHOWN_HEADERS = OPENAI_LIMIT_HEADERS.union(
    (
        f"x-ratelimit-{which}-tokens-{what}"
        for which in ("limit", "remaining")
        for what in ("prompt", "cache-adjusted-prompt", "generated")
    ),
    ["x-ratelimit-over-limit"],
    (
        f"fireworks-{name}"
        for name in (
            "cached-prompt-tokens",
            "generation-duration",
            "generation-queue-duration",
            "prefill-duration",
            "prefill-queue-duration",
            "prompt-tokens",
            "sampling-options",
            "server-processing-time",
            "server-time-to-first-token",
            "speculation-acceptance",
            "speculation-generated-tokens",
            "speculation-prompt-matched-tokens",
            "speculation-prompt-tokens",
            "tokenizer-duration",
            "tokenizer-queue-duration",
        )
    ),
)

PROVIDER = Provider(
    name="fireworks",
    title="Fireworks",
    site_url="https://fireworks.ai",
    serves={
        "chat": EndpointSupport(
            path="/chat/completions",
            # `reasoning` is a field of OpenAI's Responses API and of OpenRouter's chat API.
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS | {"reasoning"},
            dropped_nested_fields={**OPENAI_ONLY_NESTED_FIELDS, "tools": _ANTHROPIC_TOOL_FIELDS},
            message_schema=_MESSAGE_SCHEMA,
            accepted_values=_SERVICE_TIERS,
            ranges={"top_k": (0, 100)},
            max_unstreamed_tokens=_MAX_UNSTREAMED_TOKENS,
        ),
        "completions": EndpointSupport(
            path="/completions",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS | {"reasoning"},
            accepted_values=_SERVICE_TIERS,
            ranges={"top_k": (0, 100)},
            max_unstreamed_tokens=_MAX_UNSTREAMED_TOKENS,
            # Its schema lacks `suffix`, `best_of` and `stream_options`, even if they are null; usage comes unrequested.
            accepts_null=False,
            accepts_stream_options=False,
        ),
        "embeddings": EndpointSupport(
            path="/embeddings",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS | {"user"},
            accepts_null=False,
            # It serves older models under their Hugging Face ids, and its list has none of them.
            serves_unlisted=True,
        ),
        "rerank": EndpointSupport(
            path="/rerank",
            dropped_fields=OPENAI_ONLY_FIELDS | ANTHROPIC_ONLY_FIELDS | {"user"},
            accepts_null=False,
            write_request=_write_rerank_request,
            read_response=_read_rerank_response,
        ),
    },
    fetch_pages=fetch_single_page,
    normalize=normalize_fireworks_model,
    naming=NAMING,
    billing=BILLING,
    probe=probe,
    fetch_prices=fetch_prices,
    # Its own two headers, and Claude Code's, which it documents for its endpoint of Anthropic's API.
    affinity_headers={
        "x-session-affinity": "x-session-affinity",
        "x-claude-code-session-id": "x-session-affinity",
        "x-multi-turn-session-id": "x-multi-turn-session-id",
    },
    shown_headers=_SHOWN_HEADERS,
    request_id_headers=("x-request-id", "x-fireworks-request-id", "cf-ray"),
    get_generation_s=get_generation_s,
    bill=BILL,
    make_name_headers=make_name_headers,
)
