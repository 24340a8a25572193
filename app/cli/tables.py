"""Statistics as tables for a terminal."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

# More models than these would push the rest off the screen; the endpoint has all of them.
MOST_MODELS = 20

_MODEL_WIDTH = 56


def format_stats(stats: dict[str, Any]) -> str:
    """Returns what `get_stats` gave as text; a dash stands for what is not known."""
    start = f"{stats['from']:%Y-%m-%d %H:%M}" if stats["from"] else "-"
    title = f"{stats['gateway']}, {stats['time_range']}: {start} to {stats['to']:%Y-%m-%d %H:%M} UTC"
    return "\n".join([title, "", *_totals(stats), "", *_outcomes(stats), "", *_models(stats["models"])])


def _totals(stats: dict[str, Any]) -> list[str]:
    rows = {
        "requests": stats["total_requests"],
        "  successful": stats["successful_requests"],
        "  failed": stats["failed_requests"],
        "tokens": stats["total_tokens"],
        "  prompt": stats["prompt_tokens"],
        "  of it cached": stats["cached_tokens"],
        "  completion": stats["completion_tokens"],
        "cost, exact (USD)": stats["total_cost"],
        "cost, estimated (USD)": stats["estimated_cost"],
        "requests without a cost": stats["unpriced_requests"],
        "keys": stats["unique_users"],
        "tokens per second": stats["avg_speed_tokens_per_sec"],
    }
    lines = [f"{name:24} {_show(value):>16}" for name, value in rows.items()]
    for name in ("ttft_ms", "duration_ms"):
        values = [f"{label} {_show(value):>10}" for label, value in stats[name].items()]
        lines.append(f"{name:24} {'   '.join(values)}")
    return lines


def _outcomes(stats: dict[str, Any]) -> list[str]:
    counts = {name: count for name, count in stats["outcomes"].items() if count}
    lines = [f"{'OUTCOME':24} {'REQUESTS':>16}", *[f"{name:24} {count:>16,}" for name, count in counts.items()]]
    if stats["errors"]:
        lines += ["", f"{'ERROR':24} {'REQUESTS':>16}"]
        lines += [f"{name[:24]:24} {count:>16,}" for name, count in stats["errors"].items()]
    return lines


def _models(models: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'MODEL':{_MODEL_WIDTH}} {'REQUESTS':>12} {'ERRORS':>10} {'TOKENS':>16} {'COST':>14}"]
    for row in models[:MOST_MODELS]:
        name = (row["model"] or "(none)")[-_MODEL_WIDTH:]
        counts = f"{row['requests']:>12,} {row['errors']:>10,} {_show(row['total_tokens']):>16}"
        lines.append(f"{name:{_MODEL_WIDTH}} {counts} {_show(row['total_cost']):>14}")
    if len(models) > MOST_MODELS:
        lines.append(f"and {len(models) - MOST_MODELS} more")
    return lines


def _show(value: float | Decimal | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6f}".rstrip("0").rstrip(".")
