"""Chutes' model list in the sandbox: 16 entries, one without a slash, some with gaps."""

import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.sandbox.models import ChatModel

_CREATED = 1_793_700_400
_TAO_USD = 288.3  # USD per coin, from which the `tao` prices are computed.


@dataclass(frozen=True)
class _Row:
    name: str
    engine: str
    usd_in: float
    usd_out: float
    context_length: int
    max_model_len: int
    reasons: bool = False
    vision: bool = False
    quantization: str | None = None
    """By default that of its engine."""
    gaps: bool = False
    """The real list has entries without context_length, modalities, features and coin prices."""


_ROWS = (
    _Row("acme-labs/Quokka-V3-TEE", "sglang", 0.28, 1.12, 163_840, 163_840, reasons=True),
    _Row("acme-labs/Quokka-V3-Mini-TEE", "sglang", 0.07, 0.28, 131_072, 131_072),
    _Row("acme-labs/Quokka-R2-TEE", "sglang", 0.55, 2.2, 163_840, 163_840, reasons=True),
    _Row("Borealis-AI/Lynx-Omni-72B-TEE", "vllm", 0.45, 2.1, 131_072, 262_144, vision=True),
    _Row("Borealis-AI/Lynx-Coder-32B", "vllm", 0.1, 0.4, 65_536, 131_072),
    _Row("tidewater/heron-4b-it", "vllm", 0.01, 0.03, 96_000, 96_000, vision=True),
    _Row("tidewater/heron-27b-it", "vllm", 0.09, 0.3, 96_000, 96_000, vision=True),
    _Row("saffron-forge/Kestrel-235B-TEE", "sglang", 0.22, 0.88, 262_144, 262_144, reasons=True),
    _Row("saffron-forge/Kestrel-Next-80B", "sglang", 0.12, 0.5, 262_144, 262_144),
    _Row("Kestrel-Nano-30B-TEE", "sglang", 0.06, 0.24, 131_072, 131_072, gaps=True),
    _Row("NorthwindLM/Otter-Large-TEE", "sglang", 0.6, 2.4, 202_752, 202_752, reasons=True),
    _Row("NorthwindLM/Otter-Air", "sglang", 0.15, 0.6, 131_072, 131_072, gaps=True),
    _Row("quietriver/Ibex-K2-TEE", "sglang", 0.5, 2.0, 262_144, 262_144, reasons=True),
    _Row("quietriver/Ibex-24B", "vllm", 0.05, 0.15, 131_072, 131_072),
    # Models that other providers also list.
    _Row("zai-org/GLM-5.3-Flash-TEE", "sglang", 0.1, 0.4, 202_752, 202_752),
    _Row("moonshotai/Kimi-K2.6-TEE", "sglang", 0.5, 2.0, 262_144, 262_144, quantization="int4"),
)


@cache
def list_chutes_models() -> dict[str, Any]:
    """Returns the body of GET /models."""
    return {"object": "list", "data": [_make_entry(index, row) for index, row in enumerate(_ROWS)]}


def _make_entry(index: int, row: _Row) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": row.name,
        "root": row.name.removesuffix("-TEE"),
        "object": "model",
        "created": _CREATED + index,
        "owned_by": "sandbox",
        "parent": None,
        "chute_id": str(uuid.uuid5(uuid.NAMESPACE_URL, row.name)),
        "price": _make_price(row),
        "pricing": {"prompt": row.usd_in, "completion": row.usd_out, "input_cache_read": row.usd_in / 2},
        "max_model_len": row.max_model_len,
        "confidential_compute": row.name.endswith("-TEE"),
    }
    if row.engine == "vllm":
        entry["permission"] = []
    return entry if row.gaps else entry | _make_overrides(row)


def _make_price(row: _Row) -> dict[str, dict[str, float]]:
    usd = {"input": row.usd_in, "output": row.usd_out, "input_cache_read": row.usd_in / 2}
    if row.gaps:
        return {name: {"usd": amount} for name, amount in usd.items()}
    return {name: {"usd": amount, "tao": round(amount / _TAO_USD, 9)} for name, amount in usd.items()}


def _make_overrides(row: _Row) -> dict[str, Any]:
    features = ["json_mode", "tools", "structured_outputs"] + (["reasoning"] if row.reasons else [])
    return {
        "quantization": row.quantization or ("fp8" if row.engine == "sglang" else "bf16"),
        "context_length": row.context_length,
        "max_output_length": 65_536,
        "input_modalities": ["text", "image"] if row.vision else ["text"],
        "output_modalities": ["text"],
        "supported_features": features,
        "supported_sampling_parameters": ["temperature", "top_p", "top_k", "stop", "seed"],
    }


def find_chutes_model(name: str) -> ChatModel | None:
    """Returns the model with this exact id or chute UUID, None for an unknown one."""
    for entry, row in zip(list_chutes_models()["data"], _ROWS, strict=True):
        if name in (entry["id"], entry["chute_id"]):
            return ChatModel(row.name, row.context_length, usage="every", reasons=row.reasons)
    return None
