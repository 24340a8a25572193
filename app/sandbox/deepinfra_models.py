"""DeepInfra's model list in the sandbox: 193 entries, 50 of them with `metadata: null`."""

from functools import cache
from itertools import product
from typing import Any

from app.sandbox.models import ChatModel

_OWNERS = ("acme-labs", "Borealis-AI", "Tidewater", "saffron-forge", "NorthwindLM")
_FAMILIES = ("Quokka-V2.5", "Lynx-L4", "Heron-3", "Kestrel-M2", "Otter-K")
_SIZES = (("9B", 0.05, 40_960), ("32B", 0.1, 131_072), ("120B", 0.27, 262_144), ("480B", 0.9, 1_048_576))
_CHAT_TAGS = (
    ["chat"],
    ["chat", "reasoning", "reasoning_effort"],
    ["chat", "vlm", "vision"],
    ["chat", "vlm", "vision", "reasoning", "reasoning_effort"],
)


@cache
def list_deepinfra_models() -> dict[str, Any]:
    """Returns the body of GET /models: 103 chat models, 40 of other kinds, 50 without metadata."""
    return {"object": "list", "data": [*_make_chat(), *_make_others(), *_make_bare(), *_make_shared()]}


def _make_chat() -> list[dict[str, Any]]:
    return [_make_chat_entry(index, *parts) for index, parts in enumerate(product(_OWNERS, _FAMILIES, _SIZES))]


def _make_chat_entry(index: int, owner: str, family: str, size: tuple[str, float, int]) -> dict[str, Any]:
    billions, price, context = size
    tags = _CHAT_TAGS[index % len(_CHAT_TAGS)]
    thinking = "-Thinking" if "reasoning" in tags else ""
    pricing = {"input_tokens": price, "output_tokens": round(price * 4, 6)}
    if index % 3:
        pricing["cache_read_tokens"] = price / 2
    return _make_entry(f"{owner}/{family}-{billions}{thinking}", context, pricing, tags)


def _make_shared() -> list[dict[str, Any]]:
    """Returns models that other providers also list, one of them in a separate quantisation too."""
    return [
        _make_entry("zai-org/GLM-5.3-Flash", 202_752, {"input_tokens": 0.14, "output_tokens": 0.45}, ["chat"]),
        _make_entry("zai-org/GLM-5.3-Flash-Turbo", 202_752, {"input_tokens": 0.1, "output_tokens": 0.3}, ["chat"]),
        _make_entry("moonshotai/Kimi-K2.6", 262_144, {"input_tokens": 0.5, "output_tokens": 2.0}, ["chat"]),
    ]


def _make_others() -> list[dict[str, Any]]:
    entries = []
    for owner, number in product(_OWNERS, (1, 2)):
        embed = _make_entry(f"{owner}/Embedding-{number}", 32_768, {"input_tokens": 0.005}, ["embed"])
        image = _make_entry(f"{owner}/Prism-{number}", 0, {"per_image_unit": 0.0006}, ["image-gen"])
        image["metadata"] |= {"default_width": 1024, "default_height": 1024, "default_iterations": 4}
        speech = _make_entry(f"{owner}/Voice-{number}", 0, {"input_characters": 0.62}, ["tts"])
        hearing = _make_entry(f"{owner}/Ear-{number}", 0, {"input_seconds": 0.0000075}, ["stt"])
        ranker = _make_entry(f"{owner}/Reranker-{number}", 32_768, {"input_tokens": 0.05}, ["rerank"])
        entries += [embed, image, speech, hearing] if number == 1 else [embed, image, speech, ranker]
    return entries


def _make_bare() -> list[dict[str, Any]]:
    """Returns old entries for which the list has no information."""
    names = (f"{owner}/{family}-{number}-legacy" for owner, family, number in product(_OWNERS, _FAMILIES, "12"))
    return [_make_entry(name, 0, {}, None) for name in names]


def _make_entry(name: str, context: int, pricing: dict[str, float], tags: list[str] | None) -> dict[str, Any]:
    metadata = {
        "description": f"{name}: a row of the sandbox; no such model runs here.",
        "context_length": context,
        "max_tokens": context,
        "pricing": pricing,
        "tags": tags,
    }
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "sandbox",
        "root": name,
        "parent": None,
        "metadata": metadata if tags is not None else None,
    }


def find_deepinfra_model(name: str) -> ChatModel | None:
    """Returns the model with this exact id, None for an unknown one.

    Models without metadata serve chats; embedding and other models do not.
    """
    entry = next((entry for entry in list_deepinfra_models()["data"] if entry["id"] == name), None)
    if entry is None:
        return None
    metadata = entry["metadata"] or {"tags": ["chat"], "context_length": None}
    tags = metadata["tags"]
    context = metadata["context_length"]
    return ChatModel(name, context, usage="finish", reasons="reasoning" in tags, chat="chat" in tags)
