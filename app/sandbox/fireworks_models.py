"""Fireworks' two lists in the sandbox: /models without prices, /v1/serverless/models with them.

Ids, windows and prices are those of late 2026. The embedding models claim `supports_chat`, one model has no
context_length, and `accounts/fireworks/models/sandbox-…` are the models that misbehave.
"""

from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from app.sandbox.behaviours import get_behaviour_names, parse_behaviour
from app.sandbox.models import ChatModel, UsagePlacement

_MODELS = "accounts/fireworks/models/"
_ROUTERS = "accounts/fireworks/routers/"
_M = 1_048_576
_CREATED = 1_780_272_000  # 2026-06-01; each row is a day later, so that the order of the list is stable.
_DAY_S = 86_400

Prices = tuple[float, float, float]
"""USD per million tokens: input, cached input, output."""


@dataclass(frozen=True)
class _Row:
    slug: str
    context_length: int | None
    standard: Prices | None = None
    priority: Prices | None = None
    fast: Prices | None = None
    vision: bool = False
    tools: bool = True
    kind: str = "HF_BASE_MODEL"
    account: str = "fireworks"

    @property
    def id(self) -> str:
        return f"accounts/{self.account}/models/{self.slug}"


_ROWS = (
    _Row("kimi-k3", _M, (3.0, 0.3, 15.0), (3.75, 0.375, 18.75), (4.5, 0.45, 22.5), vision=True),
    _Row("kimi-k2p6", 262_144, (0.95, 0.16, 4.0), (1.5, 0.22, 6.0), vision=True),
    _Row("glm-5p3", _M, (1.4, 0.26, 4.4), (1.75, 0.325, 5.5), (2.1, 0.39, 6.6)),
    _Row("glm-5p3-flash", _M, (0.15, 0.03, 0.5), (0.1875, 0.0375, 0.625), vision=True),
    _Row("deepseek-v4p1-flash", _M, (0.3, 0.006, 1.2), (0.375, 0.0075, 1.5), vision=True),
    _Row("deepseek-v3p1", 163_840, (0.56, 0.28, 1.68), (0.84, 0.42, 2.52)),
    _Row("deepseek-v3", 131_072, (0.9, 0.45, 0.9)),
    _Row("minimax-m3", 512_000, (0.3, 0.06, 1.2), (0.45, 0.09, 1.8), vision=True),
    _Row("minimax-m3p1-flash", _M, (0.15, 0.015, 0.6), (0.225, 0.0225, 0.9), vision=True),
    _Row("qwen3p8-max", 262_144, (2.0, 0.25, 6.0), (3.0, 0.375, 9.0), vision=True),
    _Row("muse-spark-open", _M, (1.25, 0.15, 4.25), (1.875, 0.225, 6.375), vision=True),
    _Row("ember-1", _M, (3.0, 0.3, 15.0), (3.75, 0.375, 18.75), vision=True),
    _Row("gpt-oss-120b", 131_072, (0.15, 0.015, 0.6), (0.18, 0.018, 0.72)),
    _Row("gpt-oss-20b", 131_072, (0.07, 0.035, 0.3)),
    _Row("llama-v3p1-8b-instruct", 131_072, (0.2, 0.1, 0.2)),
    _Row("llama-v3p3-70b-instruct", 131_072, (0.9, 0.45, 0.9)),
    # A pair in which one id is nearly the other: a prefix or "closest name" lookup must not confuse them.
    _Row("llama-v3p2-90b-instruct", 131_072, (0.9, 0.45, 0.9)),
    _Row("llama-v3p2-90b-vision-instruct", 131_072, (0.9, 0.45, 0.9), vision=True, tools=False),
    _Row("support-bot-v2", 131_072, kind="HF_PEFT_ADDON", account="sandbox"),
    _Row("private-70b", None, kind="CUSTOM_MODEL", account="sandbox"),
    _Row("qwen3-embedding-8b", 40_960, (0.1, 0.1, 0.0), tools=False, kind="EMBEDDING_MODEL"),
    _Row("qwen3-reranker-8b", 40_960, (0.2, 0.2, 0.0), tools=False, kind="EMBEDDING_MODEL"),
    _Row("flux-1-schnell-fp8", None, tools=False, kind="FLUMINA_BASE_MODEL"),
)
_LATEST = {
    "glm-latest": "glm-5p3",
    "kimi-latest": "kimi-k3",
    "minimax-latest": "minimax-m3",
    "qwen-max-latest": "qwen3p8-max",
    "deepseek-flash-latest": "deepseek-v4p1-flash",
}
# The first family that a slug starts with determines the position of the usage in its streams.
_USAGE: tuple[tuple[str, UsagePlacement], ...] = (
    ("deepseek-v4", "finish"),
    ("llama", "finish"),
    ("qwen", "finish"),
    ("kimi-k2", "finish"),
    ("minimax", "finish-if-asked"),
)
_REASONING_FAMILIES = ("glm", "kimi", "deepseek-v4", "minimax", "gpt-oss")


def list_fireworks_models() -> dict[str, Any]:
    """Returns the body of GET /inference/v1/models."""
    rows = [_make_entry(row, day) for day, row in enumerate(_ROWS)]
    for name in get_behaviour_names():
        rows.append(_make_entry(_Row(name, 131_072), len(rows)))
    return {"object": "list", "data": rows}


def _make_entry(row: _Row, day: int) -> dict[str, Any]:
    entry = {
        "id": row.id,
        "object": "model",
        "owned_by": "sandbox",
        "created": _CREATED + day * _DAY_S,
        "kind": row.kind,
        # Also true for embedders and rerankers: the real list has the same bug.
        "supports_chat": row.kind != "FLUMINA_BASE_MODEL",
        "supports_tools": row.tools,
    }
    if row.kind != "EMBEDDING_MODEL":
        entry["supports_image_input"] = row.vision
    if row.context_length is not None:
        entry["context_length"] = row.context_length
    return entry


def list_serverless_models() -> dict[str, Any]:
    """Returns the body of GET /v1/serverless/models: one row for each model and serving mode."""
    return {"object": "list", "data": [entry for row in _ROWS for entry in _make_price_rows(row)]}


def _make_price_rows(row: _Row) -> list[dict[str, Any]]:
    rows = []
    if row.standard:
        aliases = [_ROUTERS + alias for alias, slug in _LATEST.items() if slug == row.slug]
        rows.append(_make_price_row(row, "standard", row.standard, {"aliases": aliases} if aliases else {}))
    if row.priority:
        rows.append(_make_price_row(row, "priority", row.priority, {"service_tier": "priority"}))
    if row.fast:
        router = {"usage_identifier": f"{_ROUTERS}{row.slug}-fast"}
        rows.append(_make_price_row(row, "fast", row.fast, router))
    return rows


def _make_price_row(row: _Row, mode: str, prices: Prices, extra: dict[str, Any]) -> dict[str, Any]:
    skus = ("LLM input tokens (uncached)", "LLM input tokens (cached)", "LLM output tokens")
    return {
        "id": row.id,
        "object": "model",
        "serverless_mode": mode,
        **extra,
        "pricing": [
            {"sku": sku, "amount": f"{amount:g}", "unit": "1M tokens"} for sku, amount in zip(skus, prices, strict=True)
        ],
        "display_name": f"{row.slug} (sandbox, {mode})",
        "description": "A row of the sandbox; no such model runs here.",
        "context_length": row.context_length,
        "input_modalities": ["text", "image"] if row.vision else ["text"],
        "output_modalities": ["text"],
        "created": _CREATED,
    }


@lru_cache(maxsize=256)
def get_token_prices(model: str, asked: str, tier: str | None) -> tuple[Decimal, Decimal, Decimal]:
    """Returns a model's prices in USD per token: input, cached input, output; zeros for one without a price.

    Args:
        model: its id.
        asked: the name in the request; a router for the fast mode has its own price.
        tier: the `service_tier` of the request.
    """
    row = next((each for each in _ROWS if each.id == model), None)
    if row is None or row.standard is None:
        return Decimal(0), Decimal(0), Decimal(0)
    prices = row.standard
    if asked == f"{_ROUTERS}{row.slug}-fast" and row.fast:
        prices = row.fast
    elif tier == "priority" and row.priority:
        prices = row.priority
    uncached, cached, output = (Decimal(f"{price:g}").scaleb(-6) for price in prices)
    return uncached, cached, output


def find_fireworks_model(name: str) -> ChatModel | None:
    """Returns the model that serves a requested name, None for an unknown one.

    The name may be the full id, `fireworks/<slug>`, a `…/routers/<slug>-fast` or a `…-latest` alias. The model has its
    own full id, as in real responses. A bare slug is unknown, as at Fireworks.
    """
    known = _get_chat_models()
    if name.startswith("fireworks/"):
        name = _MODELS + name.removeprefix("fireworks/")
    if name.startswith(_ROUTERS):
        slug = name.removeprefix(_ROUTERS)
        name = _MODELS + _LATEST.get(slug, slug.removesuffix("-fast"))
    if name.startswith(_MODELS + "sandbox-") and parse_behaviour(name):
        return ChatModel(name, 131_072, usage="separate")
    return known.get(name)


@cache
def _get_chat_models() -> dict[str, ChatModel]:
    return {row.id: _make_chat_model(row) for row in _ROWS}


def _make_chat_model(row: _Row) -> ChatModel:
    usage: UsagePlacement = next((placement for prefix, placement in _USAGE if row.slug.startswith(prefix)), "separate")
    return ChatModel(
        row.id,
        row.context_length,
        usage=usage,
        reasons=row.slug.startswith(_REASONING_FAMILIES),
        always_reasons=row.slug.startswith("gpt-oss"),
        counts_reasoning=row.slug.startswith(("kimi", "gpt-oss")),
        kimi_call_ids=row.slug.startswith("kimi"),
        text_in_finish=row.slug.startswith("qwen"),
        chat=row.kind not in ("EMBEDDING_MODEL", "FLUMINA_BASE_MODEL"),
    )
