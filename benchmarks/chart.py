"""Draws the plot of docs/benchmarks.md as SVG: requests and events per second of each subject, on a log scale."""

from __future__ import annotations

import math
from collections.abc import Iterable

from benchmarks.results import Results, Summary

_PANELS = {
    "requests/s, 32 connections": ("requests, 32 connections", "answers_per_s"),
    "events/s, 1,000 streams × 50/s": ("1000 streams, 50 events/s each", "events_per_s"),
    "events/s, 100 streams × 50/s": ("100 streams, 50 events/s each", "events_per_s"),
}
_ORDER = ("direct", "nginx", "Envoy", "bare Flask route", "gateway", "Portkey", "LiteLLM")
_BAR, _GAP, _LEFT, _WIDTH, _HEAD = 18, 8, 150, 420, 34
_SCALE_BEGIN = 10.0


def draw_chart(results: Results) -> str:
    """Returns the SVG: a bar for each median, and a line from the minimum to the maximum."""
    parts: list[str] = []
    top = 10
    for title, (case, metric) in _PANELS.items():
        found = {name: results.get(case, name, metric) for name in _ORDER}
        bars = {name: summary for name, summary in found.items() if summary is not None}
        if bars:
            parts.extend(_panel(title, bars, top))
            top += _HEAD + len(bars) * (_BAR + _GAP) + 16
    width = _LEFT + _WIDTH + 90
    style = "text{font:13px system-ui,sans-serif;fill:#333}.t{font-weight:600}.g{fill:#2563eb}.o{fill:#b6bfcc}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}">\n'
        f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(title: str, bars: dict[str, Summary], top: int) -> Iterable[str]:
    most = max(summary.high for summary in bars.values())
    yield f'<text class="t" x="{_LEFT}" y="{top + 16}">{title} (logarithmic)</text>'
    y = top + _HEAD
    for name, summary in bars.items():
        end, low, high = (_x(value, most) for value in (summary.median, summary.low, summary.high))
        kind = "g" if name == "gateway" else "o"
        yield f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{name}</text>'
        yield f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR}"/>'
        middle = y + _BAR / 2
        yield f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="#333"/>'
        yield f'<text x="{max(end, high) + 6:.1f}" y="{y + 14}">{summary.median:,.0f}</text>'
        y += _BAR + _GAP


def _x(value: float, most: float) -> float:
    share = math.log(max(value, _SCALE_BEGIN) / _SCALE_BEGIN) / math.log(most / _SCALE_BEGIN)
    return _LEFT + _WIDTH * max(share, 0.0)
