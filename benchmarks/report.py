"""Renders the numbers of a run: tables in Markdown for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.results import Results, Summary
from benchmarks.targets import TARGETS, Target, on_another_python

BEGIN, END = "<!-- written by make bench: begin -->", "<!-- written by make bench: end -->"

# The columns of a table: heading, metric, and digits after the decimal point.
_Columns = list[tuple[str, str, int]]
_REQUESTS: _Columns = [
    ("requests/s", "answers_per_s", 0),
    ("p50 ms", "latency_p50_ms", 2),
    ("p99 ms", "latency_p99_ms", 1),
    ("CPU µs each", "cpu_us", 0),
    ("CPU to no limits", "to_unlimited", 3),
    ("CPU to the other checkout", "to_other", 3),
    ("delay p99.9 ms", "delay_p999_ms", 1),
    ("delay max ms", "delay_max_ms", 1),
    ("failed", "errors", 0),
]
_STREAMS: _Columns = [
    ("events/s", "events_per_s", 0),
    ("first event p50 ms", "first_event_p50_ms", 1),
    ("lag p50 ms", "lag_p50_ms", 1),
    ("lag p99 ms", "lag_p99_ms", 1),
    ("CPU µs each", "cpu_us", 1),
    ("missing", "missing_events", 0),
    ("failed", "errors", 0),
]
_LIMITS: _Columns = [
    ("over the limit %", "over_percent", 2),
    ("unused %", "unused_percent", 3),
    ("admitted/s", "admitted_per_s", 0),
    ("wait p50 ms", "wait_p50_ms", 2),
    ("wait p99 ms", "wait_p99_ms", 1),
    ("last 1 % s", "last_percent_s", 2),
    ("CPU µs each", "cpu_us", 0),
    ("PostgreSQL's CPU µs each", "server_cpu_us", 0),
]
_PAGES: _Columns = [
    ("p50 ms", "page_p50_ms", 0),
    ("p95 ms", "page_p95_ms", 0),
    ("worker's CPU ms", "page_cpu_ms", 1),
    ("KB", "page_kb", 0),
]
_OTHERS: _Columns = [
    ("first answer s", "first_answer_s", 2),
    ("memory MB", "idle_mb", 0),
    ("KB a stream", "kb_per_stream", 1),
    ("rows shipped/s", "shipped_per_s", 0),
    ("memory MB", "memory_mb", 0),
]


def render_targets(results: Results) -> str:
    """Returns the table of targets, unmeasured ones included, with columns for another Python if one was measured."""
    lines = ["| target | bound | measured | |", "|---|---|---|---|"]
    elsewhere = on_another_python(results) if results.facts.get("another Python") else None
    if elsewhere is not None:
        lines = [lines[0] + " on another Python | |", lines[1] + "---|---|"]
    for target in TARGETS:
        bound = f"{'≥' if target.at_least else '≤'} {_figure(target.wanted)} {target.unit}".strip()
        line = f"| {target.name} | {bound} | {_verdict(target, results, 'not measured')}"
        lines.append(line if elsewhere is None else f"{line} {_verdict(target, elsewhere, '–')}")
    return "\n".join(lines)


def _verdict(target: Target, results: Results, otherwise: str) -> str:
    """Returns two cells: the figure, and whether it meets the target."""
    measured = target.measure(results)
    if measured is None:
        return f"{otherwise} | |"
    return f"{_figure(measured)} {target.unit} | {target.verdict(measured)} |"


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def render_tables(results: Results) -> str:
    """Returns a table for each case: medians, with minimum and maximum in brackets."""
    return "\n\n".join(f"**{_title(case)}**\n\n{_table(results, case)}" for case in results.cases())


def _title(case: str) -> str:
    return case.replace("1 connections", "1 connection").replace("1000 ", "1,000 ").replace("2000 ", "2,000 ")


def _table(results: Results, case: str) -> str:
    subjects = results.subjects(case)
    wanted = _STREAMS if results.get(case, subjects[0], "events_per_s") else _REQUESTS
    if not results.get(case, subjects[0], "answers_per_s"):
        wanted = _LIMITS if results.get(case, subjects[0], "over_percent") else _OTHERS
        wanted = _PAGES if results.get(case, subjects[0], "page_p50_ms") else wanted
    columns = [column for column in wanted if any(results.get(case, subject, column[1]) for subject in subjects)]
    lines = ["| | " + " | ".join(heading for heading, _, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for subject in subjects:
        cells = [_cell(results.get(case, subject, metric), digits) for _, metric, digits in columns]
        lines.append(f"| {subject} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(summary: Summary | None, digits: int) -> str:
    if summary is None:
        return "–"
    median, low, high = (f"{value:,.{digits}f}" for value in (summary.median, summary.low, summary.high))
    return median if low == high else f"{median} ({low}–{high})"


def describe_company(results: Results) -> str:
    """Returns a sentence on how much other processes used the measured core: a few percent on a quiet machine."""
    shares = results.get_all("others_percent")
    if not shares:
        return ""
    return (
        f"Other processes had {statistics.median(shares):.0f} % of the measured core in the median, "
        f"{max(shares):.0f} % at most."
    )


def render_document(results: Results) -> str:
    """Returns the text between the markers of docs/benchmarks.md."""
    facts = [f"- {name}: {text}" for name, text in results.facts.items() if name != "stats"]
    parts = [
        "\n".join(facts),
        render_targets(results),
        describe_company(results),
        "![requests and events per second](benchmarks.svg)",
    ]
    if "stats" in results.facts:
        parts.append(f"```\n{results.facts['stats']}\n```")
    return "\n\n".join([*parts, render_tables(results)])


def write_document(path: Path, results: Results) -> None:
    """Replaces the text between the markers of the page."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{render_document(results)}\n\n{END}{after}")
