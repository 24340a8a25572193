"""Renders docs/faults.md from the observations of a test run; the page is the same for every run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tests.faults.cases import LIMITS_S, SETTINGS, Limit
from tests.faults.leaving import Left
from tests.faults.observe import Observation, Views
from tests.faults.own import Event

# Allowance for a busy machine, added to the limit that a setting promises.
SLACK_S = 6.0

INTRODUCTION = """# Faults

This page shows what happens when something around the gateway fails: what a client sees directly and behind nginx (with
[deploy/nginx.conf](../deploy/nginx.conf)), what the provider sees, what is recorded, and what bounds the time.
**This page is written by the test run** (`UPDATE_FAULTS=1 make test ARGS=tests/faults`) from real processes: gunicorn,
nginx, PostgreSQL, and a provider on a raw socket that does what each line says. A test fails when what is seen differs
from this page.

How to read it:

- Requests are chat requests unless stated otherwise. Streams of `/v1/completions` end in the same ways, even if one of
  several prompts is never finished, or never begun.
- *unfinished*: the transfer has no end (no last chunk, or fewer bytes than announced), so every HTTP library notices.
- *error event*: `data: {"error": {…}}`, never followed by `[DONE]`.
- *openai* and *anthropic* are the official Python SDKs without retries, *curl* is the exit code of
  `curl --fail-with-body`.
- For Messages and Responses, the names of the events are shown (for Responses without `response.`). After a failure
  there is never a `message_delta`, which says why the model stopped, or a `completed`, and an open call is not ended.
- *hung up on*: the gateway closed the connection to the provider, which tells it to stop generating.
- *recorded* is the row in PostgreSQL: outcome, source of the token counts, number of failed attempts.
- *time*: "at once" means that no timeout is needed. Otherwise the setting that ends the request is named; the settings
  of this run are far shorter than the defaults.
"""

_LIMIT_WORDS: dict[Limit, str] = {
    "at once": "at once",
    "its own pace": "as long as it takes",
    "connect": "`UPSTREAM_CONNECT_TIMEOUT`, twice",
    "first byte": "`UPSTREAM_FIRST_BYTE_TIMEOUT`",
    "idle": "`UPSTREAM_IDLE_TIMEOUT`",
    "total": "`UPSTREAM_TOTAL_TIMEOUT`",
}

_COLUMNS = (
    *("fault", "client, directly", "client behind nginx", "openai", "anthropic", "curl", "provider saw", "recorded"),
    "time",
)


def render(sections: Mapping[str, Iterable[Mapping[str, str]]]) -> str:
    """Returns the page; a section's lines are mappings from the columns' names, of which missing ones are empty."""
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    parts = [INTRODUCTION + f"\nSettings of this run: `{settings}`.\n"]
    for title, lines in sections.items():
        parts.append(f"## {title}\n\n" + _table(list(lines)))
    return "\n".join(parts)


def _table(lines: list[Mapping[str, str]]) -> str:
    columns = [name for name in _COLUMNS if any(line.get(name) for line in lines)]
    rows = [columns, ["---"] * len(columns), *([line.get(name) or "–" for name in columns] for line in lines)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def line_of(seen: Observation) -> dict[str, str]:
    """Returns the line of a provider's fault."""
    return _line(seen.fault.name, seen, _LIMIT_WORDS[seen.fault.limit])


def event_line(event: Event) -> dict[str, str]:
    """Returns the line of a fault of the gateway itself."""
    return _line(event.name, event, event.time)


def _line(name: str, seen: Views, time: str) -> dict[str, str]:
    words = {door: _stable(met.words) for door, met in seen.met.items()}
    return {
        "fault": name,
        "client, directly": words["direct"],
        "client behind nginx": _other(words["direct"], words["nginx"]),
        "openai": _both(seen.sdk),
        "curl": _both(seen.curl),
        "provider saw": _both(seen.provider),
        "recorded": _both({door: recorded(row) for door, row in seen.rows.items()}),
        "time": time,
    }


def departure_line(left: Left) -> dict[str, str]:
    """Returns the line of a client's fault."""
    words = {name: recorded(row) if row else "nothing" for name, row in left.rows.items()}
    return {
        "fault": left.departure.name,
        "provider saw": _both(left.provider),
        "recorded": _both(words),
        "time": left.departure.bound,
    }


def _stable(words: str) -> str:
    """Returns the words without counts that depend on timing."""
    return re.sub(r"\d\d+ events", "events", words)


def _other(first: str, second: str) -> str:
    return "the same" if first == second else second


def _both(words: Mapping[str, str]) -> str:
    if len(set(words.values())) < 2:
        return next(iter(words.values()), "")
    return f"{words['direct']}; behind nginx {words['nginx']}"


def recorded(row: Mapping[str, Any]) -> str:
    """Returns a row in words."""
    usage = {"none": "no usage", "counted": "usage counted", "provider": "the provider's usage"}[row["usage_source"]]
    failed = failed_attempts(row)
    return f"`{row['outcome']}`, {usage}" + (f", {failed} failed" if failed else "")


def failed_attempts(row: Mapping[str, Any]) -> int:
    """Returns how many attempts the row lists as failed."""
    return sum(1 for attempt in row["attempts"] if attempt.get("error"))


def least_s(limit: Limit) -> float:
    """Returns how long a request that this limit ends takes at least, in seconds."""
    return LIMITS_S[limit]
