"""Statistics and single records as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from app.services.reports import EndpointStats, ModelStats, RequestStory, RetryingClient, RetryReport, Share, Stats
from app.services.repricing import RepriceReport

# More models than this would scroll the totals off the screen; the endpoint returns all of them.
MAX_MODELS = 20

_NAME_WIDTH = 56

# The order of an attempt's fields, which PostgreSQL does not keep; other fields come last.
_ATTEMPT_FIELDS = ("provider", "model", "status", "error", "ms", "tokens", "cost_usd")


def format_stats(stats: Stats) -> str:
    """Returns the statistics as text; unknown values are dashes."""
    start = f"{stats.start:%Y-%m-%d %H:%M}" if stats.start else "-"
    subjects = {name: getattr(stats, name) for name in ("key", "model", "holder", "group")}
    subject = next((f"{name} {value}" for name, value in subjects.items() if value), None)
    chosen = [stats.gateway, subject, stats.endpoint, stats.time_range]
    title = f"{', '.join(filter(None, chosen))}: {start} to {stats.end:%Y-%m-%d %H:%M} UTC"
    return "\n".join([title, "", *_format_totals(stats), "", *_format_outcomes(stats), "", *_format_parts(stats)])


def format_story(story: RequestStory) -> str:
    """Returns the record of a request as text, a line for each known value; attempts have a line each."""
    lines = [f"{name:20} {_format_field(value)}" for name, value in story.data.items() if value not in (None, [])]
    lines += [f"{'same id':20} {other}" for other in story.others]
    if story.retries is not None:
        chain = story.retries
        lines += [
            f"{f'attempt {number}':20} {each.request_id}, {each.outcome}, status {each.status},"
            f" {format_value(each.cost_usd)} USD{', this one' if each.is_this else ''}"
            for number, each in enumerate(chain.attempts, 1)
        ]
        unknown = f", and {chain.unpriced_attempts} of unknown cost" if chain.unpriced_attempts else ""
        lines.append(f"{'before the last':20} {format_value(chain.repeated_cost)} USD{unknown}")
    return "\n".join(lines)


def format_retries(report: RetryReport) -> str:
    """Returns the cost of retries as text, a line for each client."""
    title = f"{report.key or 'all keys'}: {report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M} UTC"
    if not report.clients:
        return f"{title}\n\nNo attempt was repeated by a retry."
    lines = [f"{'KEY':16} {'CLIENT':40} {'REPEATED':>9} {'COST':>12} {'ESTIMATED':>12} {'UNPRICED':>9}  OUTCOMES"]
    for row in report.clients:
        outcomes = ", ".join(f"{name} {count}" for name, count in row.outcomes.items())
        lines.append(f"{row.key[:16]:16} {_format_field(row.client_agent or '(none)')[:40]:40} {_sum(row)}  {outcomes}")
    lines.append(f"{'all':57} {_sum(report)}")
    return "\n".join([title, "", *lines])


def format_repriced(report: RepriceReport) -> str:
    """Returns the new costs of records as text, a line for each model and price, and the reasons for missing ones."""
    lines = [f"{'REQUESTS':>9} {'COST':>14}  {'GATEWAY':12} MODEL, PRICE"]
    for row in report.models:
        cost = f"{row.requests:>9,} {format_value(row.cost_usd):>14}"
        lines.append(f"{cost}  {row.gateway:12} {_format_field(row.model)}, {row.price_source}: {row.reason}")
    lines.append(f"{report.requests:>9,} {format_value(report.cost_usd):>14}  total")
    lines += [f"{count:>9,} {'-':>14}  left as they are: {reason}" for reason, count in report.left.items()]
    return "\n".join(lines)


def _sum(row: RetryReport | RetryingClient) -> str:
    costs = f"{format_value(row.repeated_cost):>12} {format_value(row.estimated_cost):>12}"
    return f"{row.repeated_attempts:>9,} {costs} {row.unpriced_attempts:>9,}"


def _format_field(value: object) -> str:
    if isinstance(value, list):
        return f"\n{'':20} ".join(_format_attempt(attempt) for attempt in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):  # A time or a speed; amounts of money are decimals, which are shown in full.
        return f"{value:.2f}".rstrip("0").rstrip(".")
    # Providers and clients choose some texts, and a terminal interprets control characters.
    return "".join(character if character.isprintable() else "?" for character in str(value))


def _format_attempt(attempt: object) -> str:
    if not isinstance(attempt, dict):
        return _format_field(attempt)
    names = [*_ATTEMPT_FIELDS, *(name for name in attempt if name not in _ATTEMPT_FIELDS)]
    return ", ".join(f"{name} {_format_field(attempt[name])}" for name in names if attempt.get(name) is not None)


def _format_totals(stats: Stats) -> list[str]:
    rows = {
        "requests": stats.total_requests,
        "  successful": stats.successful_requests,
        "  failed": stats.failed_requests,
        "tokens": stats.total_tokens,
        "  prompt": stats.prompt_tokens,
        "    of which cached": stats.cached_tokens,
        "  completion": stats.completion_tokens,
        "cost, exact (USD)": stats.total_cost,
        "cost, estimated (USD)": stats.estimated_cost,
        "requests without a cost": stats.unpriced_requests,
        "keys": stats.unique_users,
        "tokens per second": stats.avg_speed_tokens_per_sec,
    }
    lines = [f"{name:24} {format_value(value):>16}" for name, value in rows.items()]
    for name, percentiles in {"ttft_ms": stats.ttft_ms, "duration_ms": stats.duration_ms}.items():
        values = [f"{label} {format_value(value):>10}" for label, value in msgspec.structs.asdict(percentiles).items()]
        lines.append(f"{name:24} {'   '.join(values)}")
    return lines


def _format_outcomes(stats: Stats) -> list[str]:
    counts = {name: count for name, count in stats.outcomes.items() if count}
    lines = [f"{'OUTCOME':24} {'REQUESTS':>16}", *[f"{name:24} {count:>16,}" for name, count in counts.items()]]
    if stats.errors:
        lines += ["", f"{'ERROR':24} {'REQUESTS':>16}"]
        lines += [f"{name[:24]:24} {count:>16,}" for name, count in stats.errors.items()]
    return lines


def _format_parts(stats: Stats) -> list[str]:
    lines = _format_group("ENDPOINT", [(row.endpoint, row) for row in stats.endpoints])
    lines += ["", *_format_group("MODEL", [(row.model or "(none)", row) for row in stats.models[:MAX_MODELS]])]
    if len(stats.models) > MAX_MODELS:
        lines.append(f"and {sum(row.models for row in stats.models[MAX_MODELS:])} more")
    if stats.split_by is not None:
        names = [" ".join(filter(None, [share.name, share.id and f"({share.id})"])) for share in stats.split]
        rows = [(name or "(none)", share) for name, share in zip(names, stats.split, strict=True)]
        lines += ["", *_format_group(stats.split_by.upper(), rows)]
    return lines


def _format_group(title: str, rows: Sequence[tuple[str, EndpointStats | ModelStats | Share]]) -> list[str]:
    lines = [f"{title:{_NAME_WIDTH}} {'REQUESTS':>12} {'ERRORS':>10} {'TOKENS':>16} {'COST':>14}"]
    for name, row in rows:
        counts = f"{row.requests:>12,} {row.errors:>10,} {format_value(row.total_tokens):>16}"
        lines.append(f"{name[-_NAME_WIDTH:]:{_NAME_WIDTH}} {counts} {format_value(row.total_cost):>14}")
    return lines


def format_value(value: float | Decimal | None) -> str:
    """Returns a number as text, with commas between thousands and at most six decimals; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6f}".rstrip("0").rstrip(".")
