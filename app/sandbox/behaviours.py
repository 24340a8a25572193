"""The models that misbehave on purpose: their names, their behaviours, and the parsing of a name.

The last part of a model id decides: `accounts/fireworks/models/sandbox-429` and, at the other providers,
`sandbox/sandbox-429` name the same behaviour, and an error has the provider's body. A number at the end replaces the
default: `sandbox-cut-after-7`, `sandbox-slow-first-token-0.5`.
"""

import re
from dataclasses import dataclass

_NAME = re.compile(r"sandbox-(?P<kind>.+?)(?:-(?P<number>\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Behaviour:
    """A behaviour with its number, whose unit is in the table: seconds, events, bytes or attempts."""

    kind: str
    number: float

    @property
    def count(self) -> int:
        """The number as a whole count."""
        return int(self.number)


@dataclass(frozen=True)
class _Row:
    kind: str
    default: float
    unit: str
    text: str


_ROWS = (
    _Row("401", 0, "", "refuses the key"),
    _Row("402", 0, "", "asks for payment"),
    _Row("403", 0, "", "forbids the model to this key"),
    _Row("404", 0, "", "is listed but not deployed"),
    _Row("412", 0, "", "says that the account is suspended"),
    _Row("422", 0, "", "responds with a list of validation details"),
    _Row("429", 0, "", "is rate limited and does not say for how long"),
    _Row("429-retry-after", 2, "seconds", "is rate limited and sends retry-after"),
    _Row("500", 0, "", "has an internal error"),
    _Row("502-html", 0, "", "responds with an HTML page from the edge"),
    _Row("503", 0, "", "is overloaded"),
    _Row("503-scaling", 0, "", "is scaling up from zero"),
    _Row("flaky", 1, "attempts", "responds 503 to the first attempts of each prompt, then succeeds"),
    _Row("slow-headers", 10, "seconds", "waits before the status line"),
    _Row("slow-first-token", 10, "seconds", "sends the headers at once and waits before the first event"),
    _Row("stall", 3, "events", "falls silent after some events and never goes on"),
    _Row("cut-after", 3, "events", "closes the connection without the last chunk"),
    _Row("reset-after", 3, "events", "resets the connection (RST)"),
    _Row("clean-end", 3, "events", "ends cleanly with no finish_reason and no [DONE]"),
    _Row("no-done", 0, "", "finishes but sends no [DONE]"),
    _Row("error-event", 3, "events", "sends an error event in the middle and ends; unstreamed: 500"),
    _Row("garbage", 0, "", "sends lines that are neither SSE nor JSON"),
    _Row("drip", 1, "bytes a second", "sends one byte at a time"),
    _Row("huge-event", 100_000, "bytes", "sends one event with that much text"),
    _Row("crlf", 0, "", "ends lines with CRLF and mixes comment lines in"),
)
_DEFAULTS = {row.kind: row.default for row in _ROWS}


def parse_behaviour(model: str) -> Behaviour | None:
    """Returns the behaviour that a model id names, or None for a normal or unknown model."""
    name = model.rpartition("/")[2]
    kind = name.removeprefix("sandbox-")
    if kind == name:
        return None
    if kind in _DEFAULTS:
        return Behaviour(kind, _DEFAULTS[kind])
    match = _NAME.fullmatch(name)
    # A behaviour without a default takes no number: sandbox-503-2 is an unknown model.
    if match is None or not _DEFAULTS.get(match["kind"]):
        return None
    return Behaviour(match["kind"], float(match["number"]))


def get_behaviour_names() -> list[str]:
    """Returns the model names of all behaviours, with a number if the name is unclear without one."""
    return [
        f"sandbox-{row.kind}-3" if row.kind.endswith("-after") and row.unit == "events" else f"sandbox-{row.kind}"
        for row in _ROWS
    ]


def describe_behaviours() -> dict[str, str]:
    """Returns model name → its behaviour, in the words of GET /."""
    numbers = [f" (default {row.default:g} {row.unit})" if row.unit else "" for row in _ROWS]
    return {name: row.text + number for name, row, number in zip(get_behaviour_names(), _ROWS, numbers, strict=True)}
