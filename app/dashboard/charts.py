"""Charts as SVG, drawn here and coloured by the style sheet, so they need no script and are 5 KB each.

The SVG stretches, so all texts are HTML around it (charts.html). Each step has a transparent rectangle with what a
pointer shows, which leads to the requests of the step. What a chart shows is in a table too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup

_HEIGHT = 100
_X_LABELS = 5
_DAY_LABELS_FROM = timedelta(hours=6)


@dataclass(frozen=True)
class Line:
    """What is drawn in one colour: its name, the class of its colour, and a value a step; None is a gap."""

    name: str
    colour: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """A chart for the template.

    Attributes:
        title: what it shows.
        drawing: the SVG.
        y_labels: the texts beside it, from above.
        x_labels: the starts of steps below it, evenly spread.
        time_form: how starts are written: "clock", or "day" for steps of UTC days and quarters of them.
        lines: as given.
        starts: the start of each step.
        format: how a value is written.
        is_empty: whether there is nothing to see.
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
    """The steps that charts of a page share.

    Attributes:
        starts: of each.
        length: of all of them.
        end: of the window; a step that goes on beyond it is still running, and drawn pale.
        links: where each leads; None if nowhere.
    """

    starts: Sequence[datetime]
    length: timedelta
    end: datetime
    links: Sequence[str] | None = None

    def is_running(self, number: int) -> bool:
        """Returns whether a step is not over."""
        return self.starts[number] + self.length > self.end


def draw_bars(title: str, steps: Steps, lines: Sequence[Line], format: Callable[[Any], str]) -> Chart:
    """Returns a chart of stacked bars; the first line is at the bottom."""
    tops = [sum(line.values[number] or 0 for line in lines) for number in range(len(steps.starts))]
    top = _round_up(max(tops, default=0))
    shapes: list[Markup] = []
    for number in range(len(steps.starts)):
        below = 0.0
        for line in lines:
            height = (line.values[number] or 0) / top * _HEIGHT
            if height:
                pale = " running" if steps.is_running(number) else ""
                shapes.append(
                    Markup('<rect class="f-{}{}" x="{:.2f}" width="0.76" y="{:.2f}" height="{:.2f}"/>').format(
                        line.colour, pale, number + 0.12, _HEIGHT - below - height, height
                    )
                )
            below += height
    return _make_chart(title, steps, lines, format, shapes, top)


def draw_lines(title: str, steps: Steps, lines: Sequence[Line], format: Callable[[Any], str]) -> Chart:
    """Returns a chart of lines; steps without a value interrupt them."""
    top = _round_up(max((value for line in lines for value in line.values if value is not None), default=0))
    shapes: list[Markup] = []
    for line in lines:
        points = [
            None if value is None else f"{number + 0.5:.1f},{_HEIGHT - value / top * _HEIGHT:.2f}"
            for number, value in enumerate(line.values)
        ]
        for run in _split(points):
            # A single point is a line without length, which has round ends.
            kind, drawn = ("line", run) if len(run) > 1 else ("dot", run * 2)
            shapes.append(Markup('<polyline class="{} s-{}" points="{}"/>').format(kind, line.colour, " ".join(drawn)))
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
    shapes: Sequence[Markup],
    top: float,
) -> Chart:
    count = max(1, len(steps.starts))
    grid = Markup("").join(
        Markup('<line class="grid" x1="0" x2="{}" y1="{}" y2="{}"/>').format(count, y, y)
        for y in (0, _HEIGHT / 2, _HEIGHT)
    )
    form = "day" if steps.length >= _DAY_LABELS_FROM else "clock"
    areas = Markup("").join(_make_area(steps, lines, format, form, number) for number in range(len(steps.starts)))
    drawing = Markup('<svg viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}{}{}</svg>').format(
        count, _HEIGHT, grid, Markup("").join(shapes), areas
    )
    every = max(1, (len(steps.starts) - 1) / (_X_LABELS - 1))
    chosen = dict.fromkeys(round(number * every) for number in range(_X_LABELS) if round(number * every) < count)
    return Chart(
        title=title,
        drawing=drawing,
        y_labels=[format(top), format(top / 2), format(0)],
        x_labels=[steps.starts[number] for number in chosen] if steps.starts else [],
        time_form=form,
        lines=lines,
        starts=steps.starts,
        format=format,
        is_empty=not any(value for line in lines for value in line.values),
    )


def _make_area(steps: Steps, lines: Sequence[Line], format: Callable[[Any], str], form: str, number: int) -> Markup:
    start = steps.starts[number]
    values = "\n".join(f"{line.name}: {format(line.values[number])}" for line in lines)
    name = f"{start:%Y-%m-%d}" if form == "day" and steps.length.days else f"{start:%Y-%m-%d %H:%M} UTC"
    more = "\nnot over yet" if steps.is_running(number) else ""
    moment = "" if form == "day" else f"{start:%Y-%m-%dT%H:%M:%SZ}"
    area = Markup(
        '<rect class="area" x="{}" y="0" width="1" height="{}"><title data-moment="{}">{}\n{}{}</title></rect>'
    ).format(number, _HEIGHT, moment, name, values, more)
    if steps.links is None:
        return area
    return Markup('<a href="{}" tabindex="-1">{}</a>').format(steps.links[number], area)


def _round_up(value: float) -> float:
    """Returns the next number with one digit of 1, 2, 4, 6 or 8, which has a half that people read easily."""
    if value <= 0:
        return 1
    size = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 1.0
    while size > value:
        size /= 10
    return next(size * step for step in (1, 2, 4, 6, 8, 10) if size * step >= value * 0.9999)
