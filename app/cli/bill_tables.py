"""A reconciliation as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from app.cli.tables import format_value
from app.services.bill import Compared, Finding, Reconciliation

# More models than this would scroll the findings off the screen; --json has all of them.
MAX_MODELS = 20
# The most days named for a finding.
_MAX_DAYS = 5
_MODEL_WIDTH = 44

_STATES = {"costs_open": "costs open", "not_fetched": "not fetched"}


def format_reconciliation(report: Reconciliation) -> str:
    """Returns the report as text; unknown figures are dashes."""
    band = f"{report.band_from:.1%} to {report.band_to:.1%}"
    verdict = {
        True: f"in the band of {band}",
        False: f"NOT in the band of {band}",
        None: f"nothing to compare yet (accepted: {band})",
    }[report.is_in_band]
    fetched = f"{report.fetched_at:%Y-%m-%d %H:%M} UTC" if report.fetched_at else "-"
    lines = [
        f"{report.gateway}, {report.month}: {verdict}",
        f"account {report.account or '-'}, fetched {fetched}, source {report.source}",
    ]
    if report.problem:
        lines.append(report.problem)
    return "\n".join(
        [*lines, "", *_format_total(report), "", *_format_findings(report.findings), *_format_rows(report)]
    )


def _format_total(report: Reconciliation) -> list[str]:
    total = report.total
    rows = [
        ("tokens", total.recorded_tokens, total.billed_tokens, total.token_difference, total.token_capture),
        ("cost (USD)", total.compared_cost, total.billed_cost, total.cost_difference, total.cost_capture),
    ]
    lines = [f"{'SETTLED DAYS':24} {'RECORDED':>16} {'BILLED':>16} {'DIFFERENCE':>16} {'CAPTURE':>10}"]
    lines += [
        f"{name:24} {format_value(recorded):>16} {format_value(billed):>16} {format_value(difference):>16}"
        f" {_percent(capture):>10}"
        for name, recorded, billed, difference, capture in rows
    ]
    lines.append(f"{'price drift':24} {_percent(total.price_drift, signed=True):>16}")
    lines.append(f"{'estimated share of cost':24} {_percent(report.estimated_share):>16}")
    lines.append(f"{'unfinished requests':24} {_percent(report.unfinished_share):>16}")
    if report.other_tokens is not None:
        lines.append(f"{'tokens of other names':24} {format_value(report.other_tokens):>16}")
    if report.compared_requests is not None:
        differing = f"{format_value(report.differing_requests)} of {format_value(report.compared_requests)}"
        lines.append(f"{'requests that differ':24} {differing:>16}")
    return lines


def _format_findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["No differences outside of the band.", ""]
    lines = []
    for finding in findings:
        days = ", ".join(str(day) for day in finding.days[:_MAX_DAYS])
        more = f" and {len(finding.days) - _MAX_DAYS} more" if len(finding.days) > _MAX_DAYS else ""
        what = f"{finding.kind}: {_clean(finding.model) if finding.model is not None else 'all models'}, {days}{more}"
        lines.append(
            f"{what}: {format_value(finding.token_difference)} tokens, {format_value(finding.cost_difference)} USD"
        )
        lines += [f"    {meaning}" for meaning in finding.meanings]
    return [*lines, ""]


def _format_rows(report: Reconciliation) -> list[str]:
    days = [(f"{day.day} {_STATES.get(day.state or '', day.state or '')}", day) for day in report.days]
    models = [(_clean(model.model or "(none)")[-_MODEL_WIDTH:], model) for model in report.models[:MAX_MODELS]]
    lines = [*_format_group("DAY", days), "", *_format_group("MODEL", models)]
    if len(report.models) > MAX_MODELS:
        lines.append(f"and {len(report.models) - MAX_MODELS} more")
    return lines


def _format_group(title: str, rows: Sequence[tuple[str, Compared]]) -> list[str]:
    head = f"{'TOKENS':>15} {'BILLED':>15} {'CAPTURE':>9} {'COST':>13} {'BILLED':>13} {'DRIFT':>9}"
    lines = [f"{title:{_MODEL_WIDTH}} {head}"]
    for name, row in rows:
        tokens = f"{format_value(row.recorded_tokens):>15} {format_value(row.billed_tokens):>15}"
        tokens += f" {_percent(row.token_capture):>9}"
        costs = f"{format_value(row.recorded_cost):>13} {format_value(row.billed_cost):>13}"
        lines.append(f"{name:{_MODEL_WIDTH}} {tokens} {costs} {_percent(row.price_drift, signed=True):>9}")
    return lines


def _clean(text: str) -> str:
    # A provider chooses its names, and a terminal interprets control characters.
    return "".join(character if character.isprintable() else "?" for character in text)


def _percent(share: float | None, *, signed: bool = False) -> str:
    return "-" if share is None else f"{share:{'+' if signed else ''}.2%}"
