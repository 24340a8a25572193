"""Conversion of each provider's entries to the catalog's; the entries have the real form, the models are invented."""

from __future__ import annotations

from typing import Any

import pytest

from app.services.providers.chutes import normalize_chutes_model
from app.services.providers.deepinfra import normalize_deepinfra_model
from app.services.providers.featherless import normalize_featherless_model
from app.services.providers.fireworks import normalize_fireworks_model

FIREWORKS_CHAT = {
    "id": "accounts/fireworks/models/kimi-k3",
    "object": "model",
    "owned_by": "fireworks",
    "created": 1_782_950_400,
    "kind": "HF_BASE_MODEL",
    "supports_chat": True,
    "supports_image_input": True,
    "supports_tools": True,
    "context_length": 1_048_576,
}
FEATHERLESS_CHAT = {
    "id": "Borealis-AI/Lynx-Vision-24B-it",
    "name": "Borealis-AI/Lynx-Vision-24B-it",
    "created": 1_778_544_000,
    "model_class": "gemma3-27b",
    "owned_by": "Feather",
    "context_length": 65_536,
    "max_completion_tokens": 8_192,
    "features": {"tool_use": True},
    "pricing": {"prompt": "0.0000004", "completion": "0.0000012", "image": "0", "input": 0.4, "output": 1.2},
    "vision_supported": True,
    "input_modalities": ["text", "image"],
    "output_modalities": ["text"],
}
DEEPINFRA_CHAT = {
    "id": "acme-labs/Quokka-V2.5-Thinking",
    "created": 0,
    "owned_by": "deepinfra",
    "root": "acme-labs/Quokka-V2.5-Thinking",
    "metadata": {
        "description": "A chat model with vision.",
        "context_length": 262_144,
        "max_tokens": 262_144,
        "pricing": {"input_tokens": 0.27, "output_tokens": 1.1, "cache_read_tokens": 0.135},
        "tags": ["chat", "vlm", "vision", "reasoning"],
    },
}
CHUTES_CHAT = {
    "id": "acme-labs/Quokka-V3-TEE",
    "root": "acme-labs/Quokka-V3-FP8",
    "created": 1_793_700_421,
    "owned_by": "sglang",
    "price": {"input": {"usd": 0.28, "tao": 0.00097}},
    "pricing": {"prompt": 0.28, "completion": 1.12, "input_cache_read": 0.14},
    "max_model_len": 262_144,
    "context_length": 131_072,
    "max_output_length": 65_536,
    "input_modalities": ["text"],
    "output_modalities": ["text"],
    "supported_features": ["json_mode", "tools"],
    "supported_sampling_parameters": ["temperature", "top_p"],
}


def test_a_fireworks_chat_model() -> None:
    entry = normalize_fireworks_model(FIREWORKS_CHAT)

    assert entry.pop("supported_parameters")[-4:] == ["tools", "top_k", "top_logprobs", "top_p"]
    assert entry == {
        "id": "accounts/fireworks/models/kimi-k3",
        "canonical_slug": "fireworks/kimi-k3",
        "name": "kimi-k3",
        "created": 1_782_950_400,
        "description": None,
        "context_length": 1_048_576,
        "max_output_tokens": None,
        "architecture": {
            "modality": "text+image->text",
            "input_modalities": ["text", "image"],
            "output_modalities": ["text"],
        },
        "pricing": {"prompt": None, "completion": None, "input_cache_read": None},
        "pricing_source": None,
        "pricing_date": None,
        "capabilities": {"chat": True, "tools": True, "vision": True, "embeddings": None, "rerank": False},
        "provider_slug": "fireworks",
        "provider_site_url": "https://fireworks.ai",
        "source_gateway": "fireworks",
        "weights": "moonshotai/kimi-k3",
        "quantization": None,
        "expiration_date": None,
    }


@pytest.mark.parametrize(
    ("slug", "kind", "outputs", "capability"),
    [
        ("qwen3-embedding-8b", "EMBEDDING_MODEL", ["embeddings"], "embeddings"),
        ("qwen3-reranker-8b", "EMBEDDING_MODEL", ["rerank"], "rerank"),
        ("flux-1-schnell-fp8", "FLUMINA_BASE_MODEL", ["image"], None),
    ],
)
def test_fireworks_kind_takes_precedence_over_its_supports_chat(
    slug: str, kind: str, outputs: list[str], capability: str | None
) -> None:
    raw = {**FIREWORKS_CHAT, "id": f"accounts/fireworks/models/{slug}", "kind": kind, "supports_chat": True}

    entry = normalize_fireworks_model(raw)

    assert entry["architecture"]["output_modalities"] == outputs
    assert [name for name, can in entry["capabilities"].items() if can] == ([capability] if capability else [])
    assert entry["supported_parameters"] == []


def test_missing_fields_of_a_private_fireworks_model_are_unknown() -> None:
    raw = {"id": "accounts/acme-example/models/acme-70b", "kind": "CUSTOM_MODEL", "supports_chat": True}

    entry = normalize_fireworks_model(raw)

    assert (entry["created"], entry["context_length"]) == (None, None)
    assert (entry["capabilities"]["tools"], entry["capabilities"]["vision"]) == (None, None)
    assert (entry["provider_slug"], entry["canonical_slug"]) == ("acme-example", "acme-example/acme-70b")


def test_a_featherless_model_with_everything() -> None:
    entry = normalize_featherless_model(FEATHERLESS_CHAT)

    assert entry["pricing"] == {"prompt": "0.0000004", "completion": "0.0000012", "input_cache_read": None}
    assert entry["architecture"]["modality"] == "text+image->text"
    assert entry["capabilities"] == {"chat": None, "tools": True, "vision": True, "embeddings": False, "rerank": False}
    assert (entry["name"], entry["provider_slug"]) == ("Lynx-Vision-24B-it", "Borealis-AI")
    assert (entry["context_length"], entry["max_output_tokens"]) == (65_536, 8_192)


def test_a_featherless_entry_of_the_plain_list_lacks_most_fields() -> None:
    entry = normalize_featherless_model({"id": "tidewater/Heron-7B-base", "is_gated": False, "context_length": 4096})

    assert entry["pricing"] == {"prompt": None, "completion": None, "input_cache_read": None}
    assert (entry["pricing_source"], entry["created"]) == (None, None)
    assert entry["capabilities"]["vision"] is None


def test_a_featherless_embedding_model() -> None:
    raw = {"id": "t/E-8B", "output_modalities": ["embedding"], "pricing": {"prompt": "0.00000001", "completion": "0"}}

    entry = normalize_featherless_model(raw)

    assert entry["architecture"]["modality"] == "text->embeddings"
    assert entry["pricing"] == {"prompt": "0.00000001", "completion": "0", "input_cache_read": None}
    assert (entry["capabilities"]["chat"], entry["capabilities"]["embeddings"]) == (False, True)


def test_a_deepinfra_chat_model() -> None:
    entry = normalize_deepinfra_model(DEEPINFRA_CHAT)

    assert entry["pricing"] == {
        "prompt": "0.00000027",
        "completion": "0.0000011",
        "input_cache_read": "0.000000135",
    }
    assert (entry["created"], entry["context_length"]) == (None, 262_144)
    assert entry["max_output_tokens"] is None, "`max_tokens` of the list repeats the context"
    assert entry["description"] == "A chat model with vision."
    assert entry["capabilities"] == {"chat": True, "tools": None, "vision": True, "embeddings": False, "rerank": False}


@pytest.mark.parametrize(
    ("tag", "pricing", "modality", "prompt"),
    [
        ("embed", {"input_tokens": 0.005}, "text->embeddings", "0.000000005"),
        ("image-gen", {"per_image_unit": 0.0006}, "text->image", None),
        ("tts", {"input_characters": 0.62}, "text->audio", None),
        ("stt", {"input_seconds": 0.0000075}, "audio->text", None),
    ],
)
def test_deepinfra_models_that_do_not_chat(
    tag: str, pricing: dict[str, float], modality: str, prompt: str | None
) -> None:
    metadata = {"description": "", "context_length": 0, "max_tokens": 0, "pricing": pricing, "tags": [tag]}

    entry = normalize_deepinfra_model({"id": "a/b", "metadata": metadata})

    assert (entry["architecture"]["modality"], entry["pricing"]["prompt"]) == (modality, prompt)
    assert (entry["context_length"], entry["description"]) == (None, None)
    assert entry["capabilities"]["chat"] is False


def test_a_deepinfra_model_without_metadata_has_unknown_fields() -> None:
    entry = normalize_deepinfra_model({"id": "Borealis-AI/Lynx-legacy", "created": 0, "metadata": None})

    assert set(entry["capabilities"].values()) == {None}
    assert entry["architecture"] == {"modality": None, "input_modalities": None, "output_modalities": None}
    assert entry["supported_parameters"] is None


def test_a_chutes_model() -> None:
    entry = normalize_chutes_model(CHUTES_CHAT)

    assert entry["pricing"] == {"prompt": "0.00000028", "completion": "0.00000112", "input_cache_read": "0.00000014"}
    assert entry["context_length"] == 131_072, "the override is what is enforced"
    assert entry["max_output_tokens"] == 65_536
    assert entry["created"] is None, "its `created` is the time of the refresh"
    assert entry["supported_parameters"] == ["temperature", "tool_choice", "tools", "top_p"]
    assert entry["provider_slug"] == "acme-labs"


def test_a_chutes_entry_with_missing_fields() -> None:
    raw = {"id": "Kestrel-Nano-30B-TEE", "root": "saffron-forge/Kestrel-Nano", "max_model_len": 131_072, "pricing": {}}

    entry = normalize_chutes_model(raw)

    assert entry["context_length"] == 131_072
    assert entry["provider_slug"] == "saffron-forge"
    assert (entry["capabilities"]["tools"], entry["capabilities"]["vision"]) == (None, None)
    assert (entry["supported_parameters"], entry["pricing_source"]) == (None, None)


@pytest.mark.parametrize(
    "pricing",
    [
        {"prompt": 0, "completion": 0},
        {"prompt": -1, "completion": 2},
        {"prompt": True, "completion": True},
        {"prompt": 0.5},
        {"prompt": "0.5", "completion": "2"},
        {"prompt": 50_000, "completion": 90_000},
        {"prompt": None, "completion": None},
        [],
        None,
    ],
)
def test_an_invalid_price_is_unknown_and_never_zero(pricing: Any) -> None:
    assert normalize_chutes_model({"id": "a/b", "pricing": pricing})["pricing"]["prompt"] is None


@pytest.mark.parametrize("prompt", [0.5, "0.5", "NaN", "Infinity", "-0.1", "x", "", "1" * 50, None, ["1"]])
def test_a_featherless_price_that_is_not_a_string_of_usd_per_token_is_unknown(prompt: Any) -> None:
    entry = normalize_featherless_model({"id": "a/b", "pricing": {"prompt": prompt, "completion": "0.000001"}})

    assert entry["pricing"] == {"prompt": None, "completion": None, "input_cache_read": None}


@pytest.mark.parametrize(
    ("number", "text"), [(0.07, "0.00000007"), (3, "0.000003"), (1e-05, "0.00000000001"), (0.1 + 0.2, None)]
)
def test_prices_are_plain_decimals_without_an_exponent(number: float, text: str | None) -> None:
    entry = normalize_chutes_model({"id": "a/b", "pricing": {"prompt": number, "completion": number}})

    assert entry["pricing"]["prompt"] == (text or "0.00000030000000000000004")
