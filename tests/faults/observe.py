"""Sends a request for every fault of the provider through every door with every client, many at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.faults.cases import LIMITS_S, Fault
from tests.faults.clients import NO_CURL, Met, ask_curl, ask_sdk, meet
from tests.faults.nginx import Door
from tests.support.chat import PREFIX, chat_body, wait_for_row
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import wait_until

# Faults consist mostly of waiting, but each curl is a process and the machine may have only two cores.
_AT_ONCE = 48


@dataclass(kw_only=True)
class Views:
    """The observations of one fault from every side; each mapping is by the name of a door.

    Attributes:
        met: the bare client's results.
        rows: the rows of that client's requests.
        provider: the provider's observations of them.
        sdk, curl: the results of the other clients; empty for faults that they do not meet.
    """

    met: dict[str, Met] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    provider: dict[str, str] = field(default_factory=dict)
    sdk: dict[str, str] = field(default_factory=dict)
    curl: dict[str, str] = field(default_factory=dict)


@dataclass
class Observation(Views):
    """The observations of one fault of the provider."""

    fault: Fault


class Observer:
    """Sends the requests; `upstream` plays the provider and `database_url` holds the rows."""

    def __init__(self, doors: Sequence[Door], upstream: ScriptedUpstream, database_url: str) -> None:
        self._doors = doors
        self._upstream = upstream
        self._database_url = database_url

    def observe(self, faults: Iterable[Fault]) -> dict[str, Observation]:
        """Returns the observations of each fault, by its name."""
        observations = {fault.name: Observation(fault) for fault in faults}
        jobs = []
        for number, seen in enumerate(observations.values()):
            self._upstream.on_model(f"fault-{number}-", seen.fault.script)
            for door in self._doors:
                jobs.append((self._meet, seen, number, door))
                if seen.fault.gateway is None and not seen.fault.is_costly:
                    jobs.append((self._ask_sdk, seen, number, door))
                    jobs += [] if NO_CURL else [(self._ask_curl, seen, number, door)]
        # The longest first; a fault at its own pace takes up to three seconds.
        jobs.sort(key=lambda job: -(LIMITS_S[job[1].fault.limit] or 3 * (job[1].fault.limit == "its own pace")))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(job[0], *job[1:]) for job in jobs]:
                done.result()
        return observations

    def _meet(self, seen: Observation, number: int, door: Door) -> None:
        fault, model = seen.fault, _model(number, door, "bare")
        more = {"provider": fault.gateway} if fault.gateway else {}
        met = meet(door, chat_body(model, stream=fault.is_stream, **more))
        seen.met[door.name] = met
        seen.rows[door.name] = wait_for_row(self._database_url, met.headers["x-request-id"])
        seen.provider[door.name] = what_provider_saw(self._upstream, model)

    def _ask_sdk(self, seen: Observation, number: int, door: Door) -> None:
        seen.sdk[door.name] = ask_sdk(door, _model(number, door, "sdk"), stream=seen.fault.is_stream)

    def _ask_curl(self, seen: Observation, number: int, door: Door) -> None:
        seen.curl[door.name] = ask_curl(door, _model(number, door, "curl"), stream=seen.fault.is_stream)


def _model(number: int, door: Door, client: str) -> str:
    return f"{PREFIX}fault-{number}-{door.name}-{client}"


def requests_for(upstream: ScriptedUpstream, model: str) -> list[SeenRequest]:
    """Returns the chat requests for a model that the provider has read so far."""
    return [seen for seen in list(upstream.requests) if isinstance(seen.json, dict) and seen.json.get("model") == model]


def what_provider_saw(upstream: ScriptedUpstream, model: str) -> str:
    """Returns in words how often the provider was asked for a model, and whether the gateway hung up on it."""
    seen = requests_for(upstream, model)
    if not seen:
        return "nothing"
    wait_until(lambda: seen[-1].finished or seen[-1].gone_at, what=f"the provider's script for {model} to end")
    count = f"{len(seen)} request{'' if len(seen) == 1 else 's'}"
    return f"{count}, hung up on" if seen[-1].gone_at else count
