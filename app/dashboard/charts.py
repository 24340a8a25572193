"""Charts as SVG, drawn here and coloured by the style sheet, so they need no script and are 5 KB each.

The SVG stretches, so all texts are HTML around it (charts.html). Each step has a transparent rectangle with the text
for a pointer, which leads to the requests of the step. A table has the same figures as each chart.

A page has hundreds of shapes, so they are plain strings in which only texts are escaped: `Markup.format`, which escapes
each number, took a third of a page's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from markupsafe import Markup, escape

_HEIGHT = 100
_X_LABELS = 5
_DAY_LABELS_FROM = timedelta(hours=6)


@dataclass(frozen=True)
class Line:
    """One series in one colour: its name, the class of its colour, and a value per step; None is a gap."""

    name: str
    colour: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """A chart for the template.

    Attributes:
        title: its subject.
        drawing: the SVG.
        y_labels: the texts beside it, from the top.
        x_labels: the starts of steps below it, evenly spread.
        time_form: the format of starts, see `Steps`.
        lines: as given.
        starts: the start of each step.
        format: formats a value.
        is_empty: whether there is nothing to show.
    """

    title: str
    drawing: Markup
    y_labels: list[str]
    x_labels: list[datetime]
    time_form: str
    lines: Sequence[Line]
    starts: Sequence[datetime]
    format: Callable[[Any], str]
    is_empty: bool


@dataclass(frozen=True)
class Steps:
    """The steps shared by the charts of a page.

    Attributes:
        starts: the start of each step.
        length: the length of all steps.
        end: the end of the window; a step that extends beyond it is still running, and drawn pale.
        links: the link of each step; None without one.
    """

    starts: Sequence[datetime]
    length: timedelta
    end: datetime
    links: Sequence[str] | None = None

    def is_running(self, number: int) -> bool:
        """Returns whether a step is still running."""
        return self.starts[number] + self.length > self.end

    @property
    def time_form(self) -> str:
        """The format of starts: "clock", or "day" for steps of UTC days and quarters of them."""
        return "day" if self.length >= _DAY_LABELS_FROM else "clock"

    @cached_property
    def areas(self) -> list[tuple[str, str]]:
        """For each step, the text before and after the values in its transparent rectangle, the same in all charts."""
        return [self._make_area(number) for number in range(len(self.starts))]

    def _make_area(self, number: int) -> tuple[str, str]:
        start, is_day = self.starts[number], self.time_form == "day"
        name = f"{start:%Y-%m-%d}" if is_day and self.length.days else f"{start:%Y-%m-%d %H:%M} UTC"
        moment = "" if is_day else f"{start:%Y-%m-%dT%H:%M:%SZ}"
        before = (
            f'<rect class="area" x="{number}" y="0" width="1" height="{_HEIGHT}"><title data-moment="{moment}">{name}\n'
        )
        after = ("\nnot over yet" if self.is_running(number) else "") + "</title></rect>"
        if self.links is None:
            return before, after
        return f'<a href="{escape(self.links[number])}" tabindex="-1">{before}', f"{after}</a>"


def draw_bars(title: str, steps: Steps, lines: Sequence[Line], format: Callable[[Any], str]) -> Chart:
    """Returns a chart of stacked bars; the first line is at the bottom."""
    tops = [sum(line.values[number] or 0 for line in lines) for number in range(len(steps.starts))]
    top = _round_up(max(tops, default=0))
    shapes = []
    for number in range(len(steps.starts)):
        below = 0.0
        pale = " running" if steps.is_running(number) else ""
        for line in lines:
            height = (line.values[number] or 0) / top * _HEIGHT
            if height:
                shapes.append(
                    f'<rect class="f-{line.colour}{pale}" x="{number + 0.12:.2f}" width="0.76"'
                    f' y="{_HEIGHT - below - height:.2f}" height="{height:.2f}"/>'
                )
            below += height
    return _make_chart(title, steps, lines, format, shapes, top)


def draw_lines(title: str, steps: Steps, lines: Sequence[Line], format: Callable[[Any], str]) -> Chart:
    """Returns a chart of lines; steps without a value interrupt them."""
    top = _round_up(max((value for line in lines for value in line.values if value is not None), default=0))
    shapes = []
    for line in lines:
        points = [
            None if value is None else f"{number + 0.5:.1f},{_HEIGHT - value / top * _HEIGHT:.2f}"
            for number, value in enumerate(line.values)
        ]
        for run in _split(points):
            # A single point is a line without length, which has round ends.
            kind, drawn = ("line", run) if len(run) > 1 else ("dot", run * 2)
            shapes.append(f'<polyline class="{kind} s-{line.colour}" points="{" ".join(drawn)}"/>')
    return _make_chart(title, steps, lines, format, shapes, top)


def _split(points: Sequence[str | None]) -> list[list[str]]:
    runs: list[list[str]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _make_chart(
    title: str,
    steps: Steps,
    lines: Sequence[Line],
    format: Callable[[Any], str],
    shapes: Sequence[str],
    top: float,
) -> Chart:
    count = max(1, len(steps.starts))
    grid = "".join(f'<line class="grid" x1="0" x2="{count}" y1="{y}" y2="{y}"/>' for y in (0, _HEIGHT / 2, _HEIGHT))
    areas = []
    for number, (before, after) in enumerate(steps.areas):
        values = "\n".join([f"{line.name}: {format(line.values[number])}" for line in lines])
        areas.append(f"{before}{escape(values)}{after}")
    drawing = Markup(
        f'<svg viewBox="0 0 {count} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f"{grid}{''.join(shapes)}{''.join(areas)}</svg>"
    )
    every = max(1, (len(steps.starts) - 1) / (_X_LABELS - 1))
    chosen = dict.fromkeys(round(number * every) for number in range(_X_LABELS) if round(number * every) < count)
    return Chart(
        title=title,
        drawing=drawing,
        y_labels=[format(top), format(top / 2), format(0)],
        x_labels=[steps.starts[number] for number in chosen] if steps.starts else [],
        time_form=steps.time_form,
        lines=lines,
        starts=steps.starts,
        format=format,
        is_empty=not any(value for line in lines for value in line.values),
    )


def _round_up(value: float) -> float:
    """Returns the next number with one digit of 1, 2, 4, 6 or 8, whose half is easy to read."""
    if value <= 0:
        return 1
    size = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 1.0
    while size > value:
        size /= 10
    return next(size * step for step in (1, 2, 4, 6, 8, 10) if size * step >= value * 0.9999)
