"""Featherless' model list in the sandbox: some 22,000 generated entries, whole or in pages.

It has the faults of the real list: pages overlap, `total_items` is about twice the number of models, and a page past
the end is an empty list.
"""

from functools import cache
from itertools import islice, product
from typing import Any

from app.sandbox.models import ChatModel
from app.sandbox.web import dump_json

_MIN_PAGE, _MAX_PAGE = 100, 1000
# A model that other providers also list: the last entry, with the size that decides its price.
_SHARED, _SHARED_SIZE = "zai-org/GLM-5.3-Flash", 5

# The number of a page's entries that the next page repeats.
_OVERLAP = 2
# The real list reported 43 to 49 thousand when there were 22 thousand models.
_OVERCOUNT = 2.1
_CREATED = 1_719_792_000
_HOUR_S = 3600

_OWNERS = (
    "acme-labs", "Borealis-AI", "tidewater", "Tidewater", "saffron-forge", "NorthwindLM", "quietriver",
    "Lanternfish", "ParallaxResearch", "ironwood-ml", "Cobalt-Works", "meadowlark", "TinyTuners",
    "zephyrlabs", "HalcyonAI", "redpanda-models", "OpenKestrel", "fernandslate", "Obsidian-Org",
    "juniper-nlp",
)  # fmt: skip
_FAMILIES = (
    "Quokka-3", "Lynx-L3.1", "Heron-v2", "Kestrel", "Prism-Chat", "Otter-2.5", "Marten", "Wren-Mini", "Ibex",
    "Gannet-RP", "Bison-Coder", "Plover", "Stoat-Math", "Dunlin", "Vole-Nemo",
)  # fmt: skip
# Size in the name, model class, units of concurrency, USD per million input tokens.
_SIZES = (
    ("1.5B", "qwen2-1.5b", 1, 0.05),
    ("7B", "mistral-v02-7b", 1, 0.1),
    ("8B", "llama31-8b-16k", 1, 0.1),
    ("12B", "mistral-nemo-12b-lc", 1, 0.15),
    ("24B", "mistral-24b-2501", 2, 0.22),
    ("32B", "qwen3-32b", 2, 0.265),
    ("70B", "llama33-70b-16k", 4, 0.6),
)
_SUFFIXES = (
    "", "-Instruct", "-chat", "-it", "-DPO", "-SFT", "-abliterated", "-RP-v1", "-Embedding", "-base",
    "-Vision-it", "-merge",
)  # fmt: skip


def list_featherless_models(count: int, query: dict[str, str]) -> bytes | None:
    """Returns the body of GET /models: a page if `page` or `per_page` is given, else all; None if they are invalid.

    `per_page` below 100 is raised to 100 and above 1000 is invalid; every other parameter is ignored.
    """
    if "page" not in query and "per_page" not in query:
        return _encode_all(count)
    try:
        page, per_page = int(query.get("page", 1)), int(query.get("per_page", _MIN_PAGE))
    except ValueError:
        return None
    if page < 1 or per_page > _MAX_PAGE:
        return None
    return dump_json(_make_page(_make_entries(count), page, max(per_page, _MIN_PAGE)))


@cache
def _encode_all(count: int) -> bytes:
    return dump_json({"object": "list", "data": _make_entries(count)})


def _make_page(entries: list[dict[str, Any]], page: int, per_page: int) -> dict[str, Any]:
    start = (page - 1) * (per_page - _OVERLAP)
    total = int(len(entries) * _OVERCOUNT)
    return {
        "object": "list",
        "data": entries[start : start + per_page] if start + _OVERLAP < len(entries) or page == 1 else [],
        "total": total,
        "pagination": {
            "current_page": page,
            "per_page": per_page,
            "total_items": total,
            "total_pages": -(-total // per_page),
        },
    }


@cache
def _make_entries(count: int) -> list[dict[str, Any]]:
    """Returns `count` entries; when all combinations of names are used up, the series number increases."""
    if not count:
        return []
    series = range(1, count // (len(_OWNERS) * len(_FAMILIES) * len(_SIZES) * len(_SUFFIXES)) + 2)
    names = product(series, _SUFFIXES, _SIZES, _FAMILIES, _OWNERS)
    entries = [_make_generated(number, *parts) for number, parts in enumerate(islice(names, count - 1))]
    return [*entries, _make_entry(count - 1, _SHARED, "", _SIZES[_SHARED_SIZE])]


def _make_generated(
    number: int, series: int, suffix: str, size: tuple[str, str, int, float], family: str, owner: str
) -> dict[str, Any]:
    version = f"-s{series}" if series > 1 else ""
    return _make_entry(number, f"{owner}/{family}-{size[0]}{suffix}{version}", suffix, size)


def _make_entry(number: int, name: str, suffix: str, size: tuple[str, str, int, float]) -> dict[str, Any]:
    _, model_class, cost, price = size
    entry: dict[str, Any] = {
        "id": name,
        "name": name,
        "is_gated": number % 11 == 3,
        "created": _CREATED + number * _HOUR_S,
        "model_class": model_class + ("-embedding" if suffix == "-Embedding" else ""),
        "owned_by": "sandbox",
        "context_length": 4096 if suffix == "-base" else 32_768,
        "max_completion_tokens": 4096,
        "concurrency_cost": cost,
        "features": {"tool_use": suffix not in ("-base", "-Embedding")},
        "pricing": _make_pricing(price, 0.0 if suffix == "-Embedding" else price * 2),
    }
    _add_modalities(entry, suffix)
    return entry


def _make_pricing(usd_in: float, usd_out: float) -> dict[str, Any]:
    """Returns prices in both units, as in the real list: USD per token as text, USD per million as a number."""
    return {
        "prompt": _format_per_token(usd_in),
        "completion": _format_per_token(usd_out),
        "image": "0",
        "request": "0",
        "input": round(usd_in, 6),
        "output": round(usd_out, 6),
    }


def _format_per_token(usd_per_million: float) -> str:
    return f"{usd_per_million / 1e6:.12f}".rstrip("0").rstrip(".")


def _add_modalities(entry: dict[str, Any], suffix: str) -> None:
    """Adds the fields that only some entries have; base models are listed without them."""
    if suffix == "-base":
        for key in ("name", "max_completion_tokens"):
            del entry[key]
        return
    vision = suffix == "-Vision-it"
    entry["vision_supported"] = vision
    entry["input_modalities"] = ["text", "image"] if vision else ["text"]
    entry["output_modalities"] = ["embedding"] if suffix == "-Embedding" else ["text"]


def find_featherless_model(count: int, name: str) -> ChatModel | None:
    """Returns the model with this exact id, None for an unknown one; upper and lower case differ."""
    entry = _get_by_id(count).get(name)
    if entry is None:
        return None
    return ChatModel(name, entry["context_length"], usage="finish", chat=not name.endswith("-Embedding"))


def get_featherless_entry(count: int, name: str) -> dict[str, Any] | None:
    """Returns one entry of the list, in the form of GET /models/<owner>/<name>."""
    return _get_by_id(count).get(name)


@cache
def _get_by_id(count: int) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in _make_entries(count)}
