"""Helpers of the inference tests: settings with short timeouts, clients of a scripted upstream, and relays."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.config import Settings, load_settings
from app.errors import GatewayError
from app.services.endpoints import CHAT, StreamSummary
from app.services.streaming import ClientConnection, EventReader, Relay
from app.upstream import Response, UpstreamClient
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script

KEY = "fw_test"

# Long enough for a response from a busy machine, short enough that a test which hangs is noticed.
_TIMEOUTS = {
    "UPSTREAM_CONNECT_TIMEOUT": "5",
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "10",
    "UPSTREAM_IDLE_TIMEOUT": "10",
    "UPSTREAM_TOTAL_TIMEOUT": "20",
}


def settings_for(base_url: str, **changes: str) -> Settings:
    """Returns settings with Fireworks at `base_url`; `changes` are by environment name."""
    compiled = {"COMPILED_EVENTS": os.environ.get("COMPILED_EVENTS", "true")}
    return load_settings({"FIREWORKS_API_KEY": KEY, "FIREWORKS_BASE_URL": base_url, **compiled, **_TIMEOUTS, **changes})


def client_for(base_url: str, *, keys: Sequence[str] = (KEY,), **changes: str) -> UpstreamClient:
    """Returns a separate client for a provider at `base_url`, called Fireworks."""
    settings = settings_for(base_url, **changes)
    return UpstreamClient(
        title="Fireworks", base_url=base_url, api_keys=keys, key_setting="FIREWORKS_API_KEY", settings=settings
    )


@dataclass
class Outcome:
    """The result of a relay.

    Attributes:
        blocks: the blocks for the client.
        ended: how the iteration ended: "stop", "broken pipe", or None if it was abandoned.
        reports: the calls of `on_end`; there must be one.
    """

    blocks: list[bytes] = field(default_factory=list)
    ended: str | None = None
    reports: list[tuple[StreamSummary, GatewayError | None]] = field(default_factory=list)

    @property
    def text(self) -> bytes:
        """Everything that the client received."""
        return b"".join(self.blocks)

    @property
    def summary(self) -> StreamSummary:
        """The reported summary."""
        assert len(self.reports) == 1, f"{len(self.reports)} reports"
        return self.reports[0][0]

    @property
    def error(self) -> GatewayError | None:
        """The reported error, or None for a complete stream."""
        assert len(self.reports) == 1, f"{len(self.reports)} reports"
        return self.reports[0][1]


@contextmanager
def open_relay(
    upstream: ScriptedUpstream,
    script: Script,
    *,
    client: Any = None,
    show_usage: bool = False,
    total_s: float = 20.0,
    **changes: str,
) -> Iterator[tuple[Relay, Outcome, Response]]:
    """Yields a relay over a real response of `upstream`, the outcome that it reports to, and that response."""
    upstream.enqueue(script)
    provider = client_for(upstream.base_url, **changes)
    response = provider.post("/chat/completions", b'{"model": "m"}', stream=True)
    outcome = Outcome()
    relay = Relay(
        response,
        EventReader(CHAT, provider.title, key_setting="KEY", show_usage=show_usage),
        client=client or ClientConnection(None),
        settings=provider.settings,
        deadline_s=time.monotonic() + total_s,
        on_end=lambda summary, error: outcome.reports.append((summary, error)),
    )
    try:
        yield relay, outcome, response
    finally:
        relay.close()


def run_relay(upstream: ScriptedUpstream, script: Script, **options: Any) -> Outcome:
    """Iterates over a relay as gunicorn does, to its end, closes it, and returns the outcome."""
    with open_relay(upstream, script, **options) as (relay, outcome, _):
        try:
            for block in relay:
                outcome.blocks.append(block)
            outcome.ended = "stop"
        except BrokenPipeError:
            outcome.ended = "broken pipe"
    return outcome
