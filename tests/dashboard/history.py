"""A day of records like those of a gateway in use, for screenshots and measurements; always the same."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from tests.db.rows import Row, make_row

# Provider, model, share of the requests, USD per million prompt and completion tokens, typical time to first token, ms.
_MODELS = (
    ("fireworks", "accounts/fireworks/models/kimi-k3", 40, 3.0, 15.0, 420),
    ("fireworks", "accounts/fireworks/models/deepseek-v3p1", 25, 0.56, 1.68, 310),
    ("deepinfra", "acme-labs/Quokka-V2.5-9B", 15, 0.05, 0.08, 190),
    ("chutes", "acme-labs/Quokka-V3-TEE", 12, 0.20, 0.80, 640),
    ("featherless", "acme-labs/Quokka-3-1.5B", 8, 0.0, 0.0, 900),
)
_FAILURES = (
    ("rejected", 400, "invalid_request_error", None, "messages must not be empty."),
    ("rejected", 429, "rate_limit_error", "rate_limit_exceeded", "The key may send 60 requests in a minute."),
    ("upstream_error", 503, "upstream_error", None, "The provider is overloaded. Retry in a moment."),
    ("upstream_timeout", 504, "upstream_timeout", "first_byte_timeout", "The provider did not answer within 120 s."),
    ("upstream_cut", 200, "upstream_error", "upstream_cut", "The response ended before it was complete. Retry."),
    ("client_gone", 499, "client_gone", None, "The client closed the connection."),
)


def make_history(now: datetime, keys: list[str], count: int = 1_500, hours: float = 24) -> Iterator[Row]:
    """Yields records of the hours before `now`: more by day than by night, and an outage five hours ago."""
    chance = random.Random(7)
    for _ in range(count):
        while True:
            ago_h = chance.uniform(0.002, hours)
            if chance.random() < 0.55 + 0.45 * math.sin((now - timedelta(hours=ago_h)).hour / 24 * 2 * math.pi - 1.6):
                break
        gateway, model, _share, input_usd, output_usd, ttft_ms = chance.choices(_MODELS, [row[2] for row in _MODELS])[0]
        is_outage = gateway == "chutes" and 4.5 < ago_h < 6
        prompt, completion = int(chance.lognormvariate(6.6, 1)), int(chance.lognormvariate(5.6, 0.8))
        first = ttft_ms * chance.lognormvariate(0, 0.35) * (4 if is_outage else 1)
        speed = chance.uniform(45, 140)
        row = make_row(
            request_id=_make_id(chance, now - timedelta(hours=ago_h)),
            started_at=now - timedelta(hours=ago_h),
            key_id=chance.choice(keys),
            gateway=gateway,
            model_requested=model,
            model_served=model,
            stream=chance.random() < 0.8,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=int(prompt * chance.choice((0, 0, 0.4, 0.8))),
            cost_usd=Decimal(f"{(prompt * input_usd + completion * output_usd) / 1e6:.12f}"),
            price_source=gateway,
            attempts=[],
            ttft_ms=first,
            duration_ms=first + completion / speed * 1000,
            tokens_per_second=speed,
        )
        if chance.random() < (0.7 if is_outage else 0.03):
            row = _fail(row, chance, is_outage)
        yield row


def _fail(row: Row, chance: random.Random, is_outage: bool) -> Row:
    if is_outage and chance.random() < 0.6:
        return _serve_elsewhere(row)
    outcome, status, kind, code, message = _FAILURES[2] if is_outage else chance.choice(_FAILURES)
    row |= {"outcome": outcome, "status": status, "error_type": kind, "error_code": code, "error_message": message}
    if outcome in {"rejected", "upstream_error", "upstream_timeout"}:
        row |= {"prompt_tokens": None, "completion_tokens": None, "cached_tokens": None, "ttft_ms": None}
        row |= {"usage_source": "none", "tokens_per_second": None, "finish_reason": None}
        row |= {"cost_usd": Decimal(0), "cost_kind": "exact"}
    elif outcome != "ok":
        row |= {"usage_source": "counted", "cost_kind": "estimated", "finish_reason": None}
    return row


def _serve_elsewhere(row: Row) -> Row:
    """Returns the row of a request whose provider failed, so that another one served it."""
    gateway, model = _MODELS[2][0], _MODELS[2][1]
    first = {"provider": row["gateway"], "model": row["model_served"], "status": 503, "error": "upstream_error"}
    second = {"provider": gateway, "model": model, "status": 200, "error": None}
    tokens = row["prompt_tokens"] + row["completion_tokens"]
    attempts = [
        first | {"ms": 412.7, "tokens": None, "cost_usd": None},
        second | {"ms": 180.4, "tokens": tokens, "cost_usd": str(row["cost_usd"])},
    ]
    times = {"ttft_ms": row["ttft_ms"] + 412.7, "duration_ms": row["duration_ms"] + 412.7}
    return row | {"gateway": gateway, "model_served": model, "attempts": attempts} | times


def _make_id(chance: random.Random, moment: datetime) -> uuid.UUID:
    """Returns an id as the gateway makes it: a UUID of version 7, which begins with the time."""
    value = int(moment.timestamp() * 1000) << 80 | chance.getrandbits(80)
    return uuid.UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
