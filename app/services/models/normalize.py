"""From a provider's list entry to ours: one pure function for each provider, dict in and dict out.

An entry has the fields of `entry.Model`. What a provider does not say is None: no zero, no guess. Prices come out as
decimal strings in USD per token, whatever unit the list has; each function names its list's unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from app.services.pricing.lookup import get_plausible, parse_number, parse_text, per_token, to_plain_text
from app.services.providers.provider import CHUTES, DEEPINFRA, FEATHERLESS, FIREWORKS, Provider

Entry = dict[str, Any]

# What each provider's reference documents for chat completions, under OpenRouter's names where those exist.
_COMMON_PARAMETERS = (
    "frequency_penalty",
    "max_tokens",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stream",
    "temperature",
    "top_k",
    "top_p",
)
_FIREWORKS_PARAMETERS = (
    *_COMMON_PARAMETERS,
    "logit_bias",
    "logprobs",
    "n",
    "reasoning_effort",
    "response_format",
    "top_logprobs",
)
_DEEPINFRA_PARAMETERS = (*_COMMON_PARAMETERS, "logprobs", "n", "reasoning_effort", "response_format")
_TOOL_PARAMETERS = ("tool_choice", "tools")

# Fireworks' `supports_chat` is true for its embedding and reranking models as well, so `kind` decides first.
_FIREWORKS_OUTPUTS = {"EMBEDDING_MODEL": "embeddings", "FLUMINA_BASE_MODEL": "image", "FLUMINA_ADDON": "image"}


def normalize_fireworks_model(raw: Mapping[str, Any]) -> Entry:
    """Returns Fireworks' entry in the standard form. Its model list states no prices."""
    model_id = str(raw["id"])
    account, _, slug = model_id.removeprefix("accounts/").replace("/models/", "/").partition("/")
    output = _FIREWORKS_OUTPUTS.get(str(raw.get("kind")), "text")
    rerank = output == "embeddings" and "rerank" in slug.lower()
    chats = _flag(raw.get("supports_chat")) if output == "text" else False
    tools = _flag(raw.get("supports_tools")) if output == "text" else False
    sees = _flag(raw.get("supports_image_input")) if output == "text" else False
    return _entry(
        FIREWORKS,
        model_id,
        raw,
        canonical_slug=f"{account}/{slug}".rstrip("/").lower(),
        name=slug or model_id,
        context_length=_count(raw.get("context_length")),
        inputs=["text", "image"] if sees else ["text"],
        outputs=["rerank"] if rerank else [output],
        parameters=_parameters(_FIREWORKS_PARAMETERS, tools) if chats else [],
        capabilities=(chats, tools, sees, output == "embeddings" and not rerank, rerank),
        publisher=account or "fireworks",
    )


def normalize_featherless_model(raw: Mapping[str, Any]) -> Entry:
    """Returns Featherless' entry in the standard form. `pricing.prompt` is a string in USD per token."""
    pricing = _mapping(raw.get("pricing"))
    outputs = [
        "embeddings" if word == "embedding" else word for word in _words(raw.get("output_modalities")) or ["text"]
    ]
    embeds = "embeddings" in outputs
    tools = _flag(_mapping(raw.get("features")).get("tool_use"))
    inputs = _words(raw.get("input_modalities"))
    sees = _flag(raw.get("vision_supported"), "image" in inputs if inputs else None)
    return _entry(
        FEATHERLESS,
        str(raw["id"]),
        raw,
        context_length=_count(raw.get("context_length")),
        inputs=inputs or (["text", "image"] if sees else ["text"]),
        outputs=outputs,
        prices=(_per_token(pricing.get("prompt")), _per_token(pricing.get("completion")), None),
        parameters=[] if embeds else _parameters(_COMMON_PARAMETERS, tools),
        # Base checkpoints are listed among the chat models and nothing tells them apart, hence no word on `chat`.
        capabilities=(False if embeds else None, tools, sees, embeds, False),
    )


# DeepInfra's tags that say what comes out, each with what goes in and out.
_DEEPINFRA_KINDS: Mapping[str, tuple[list[str], list[str]]] = {
    "chat": (["text"], ["text"]),
    "embed": (["text"], ["embeddings"]),
    "rerank": (["text"], ["rerank"]),
    "image-gen": (["text"], ["image"]),
    "video-gen": (["text"], ["video"]),
    "tts": (["text"], ["audio"]),
    "stt": (["audio"], ["text"]),
}


def normalize_deepinfra_model(raw: Mapping[str, Any]) -> Entry:
    """Returns DeepInfra's entry in the standard form. `metadata.pricing` holds numbers in USD per million tokens.

    `metadata` may be null; then only the id is known. `created` is 0 where unknown.
    """
    metadata = _mapping(raw.get("metadata"))
    tags = _words(metadata.get("tags"))
    kind = next((kind for kind in _DEEPINFRA_KINDS if kind in tags), None)
    inputs, outputs = _DEEPINFRA_KINDS[kind] if kind else (None, None)
    sees = bool({"vlm", "vision"} & set(tags)) if kind else None
    pricing = _mapping(metadata.get("pricing"))
    completion = _per_million(pricing.get("output_tokens"))
    if kind in ("embed", "rerank") and completion is None:
        completion = Decimal(0)  # They produce no completion tokens, so the list leaves the price of these out.
    return _entry(
        DEEPINFRA,
        str(raw["id"]),
        raw,
        description=_text(metadata.get("description")),
        context_length=_count(metadata.get("context_length")),
        inputs=inputs and ([*inputs, "image"] if sees else inputs),
        outputs=outputs,
        prices=(
            _per_million(pricing.get("input_tokens")),
            completion,
            _per_million(pricing.get("cache_read_tokens")),
        ),
        parameters=_parameters(_DEEPINFRA_PARAMETERS, None) if kind == "chat" else None,
        capabilities=_deepinfra_capabilities(kind, sees),
    )


def _deepinfra_capabilities(kind: str | None, sees: bool | None) -> tuple[bool | None, ...]:
    if kind is None:
        return (None,) * 5
    # No tag speaks of tools; only a model that does not chat surely has none.
    return kind == "chat", None if kind == "chat" else False, sees, kind == "embed", kind == "rerank"


def normalize_chutes_model(raw: Mapping[str, Any]) -> Entry:
    """Returns Chutes' entry in the standard form. `pricing.prompt` is a *number* in USD per million tokens.

    The list holds language models only. `created` is the time of the list's last refresh, so it is left out.
    """
    pricing = _mapping(raw.get("pricing"))
    inputs = _words(raw.get("input_modalities"))
    features = raw.get("supported_features")
    tools = "tools" in features if isinstance(features, list) else None
    parameters = _words(raw.get("supported_sampling_parameters"))
    return _entry(
        CHUTES,
        str(raw["id"]),
        {**raw, "created": None},
        # The override may be below the engine's own limit, and it is what is enforced.
        context_length=_count(raw.get("context_length")) or _count(raw.get("max_model_len")),
        inputs=inputs or ["text"],
        outputs=_words(raw.get("output_modalities")) or ["text"],
        prices=(
            _per_million(pricing.get("prompt")),
            _per_million(pricing.get("completion")),
            _per_million(pricing.get("input_cache_read")),
        ),
        parameters=_parameters(parameters, tools) if parameters else None,
        capabilities=(True, tools, "image" in inputs if inputs else None, False, False),
        # A few ids have no owner in them; `root` names the weights, owner first.
        publisher=_owner(str(raw["id"])) or _owner(_text(raw.get("root")) or ""),
    )


def _entry(
    provider: Provider,
    model_id: str,
    raw: Mapping[str, Any],
    *,
    context_length: int | None,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    parameters: Sequence[str] | None,
    capabilities: tuple[bool | None, ...],
    prices: tuple[Decimal | None, Decimal | None, Decimal | None] = (None, None, None),
    canonical_slug: str | None = None,
    name: str | None = None,
    description: str | None = None,
    publisher: str | None = None,
) -> Entry:
    known = _is_price(prices)
    texts = [to_plain_text(price) if known and price is not None else None for price in prices]
    return {
        "id": model_id,
        "canonical_slug": canonical_slug or model_id.lower(),
        "name": name or model_id.rpartition("/")[2],
        "created": _count(raw.get("created")),
        "description": description,
        "context_length": context_length,
        "architecture": {
            "modality": f"{'+'.join(inputs)}->{'+'.join(outputs)}" if inputs and outputs else None,
            "input_modalities": inputs,
            "output_modalities": outputs,
        },
        "pricing": dict(zip(("prompt", "completion", "input_cache_read"), texts, strict=True)),
        "pricing_source": provider.name if known else None,
        "pricing_date": None,
        "supported_parameters": parameters,
        "capabilities": dict(zip(("chat", "tools", "vision", "embeddings", "rerank"), capabilities, strict=True)),
        "provider_slug": publisher or _owner(model_id) or provider.name,
        "provider_site_url": provider.site_url,
        "source_gateway": provider.name,
    }


def _per_million(value: object) -> Decimal | None:
    """Returns USD per token for a number of USD per million tokens."""
    amount = parse_number(value)
    return None if amount is None else get_plausible(per_token(amount))


def _per_token(value: object) -> Decimal | None:
    """Returns USD per token for a string of USD per token."""
    return get_plausible(parse_text(value))


def _is_price(prices: tuple[Decimal | None, Decimal | None, Decimal | None]) -> bool:
    """Tells whether both token prices are stated; zero for both means that the list does not know them."""
    prompt, completion, _ = prices
    return prompt is not None and completion is not None and (prompt > 0 or completion > 0)


def _parameters(names: Sequence[str], tools: bool | None) -> list[str]:
    return sorted({*names, *(_TOOL_PARAMETERS if tools else ())})


def _owner(model_id: str) -> str | None:
    return model_id.partition("/")[0] if "/" in model_id else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: object) -> list[str]:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _flag(value: object, otherwise: bool | None = None) -> bool | None:
    return value if isinstance(value, bool) else otherwise


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
