"""Sends requests to many faults of a provider at the same time, so that their timeouts pass together."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from tests.support.chat import PREFIX, Seen, post_chat, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script


class Scripted(Protocol):
    """A fault with a script for the provider."""

    @property
    def script(self) -> Script: ...


AnyFault = TypeVar("AnyFault", bound=Scripted)


class Observed(NamedTuple, Generic[AnyFault]):
    """The result of one fault: the response that the client saw, and the row."""

    fault: AnyFault
    seen: Seen
    row: dict[str, Any]


def meet_all(
    gateway: Gateway, upstream: ScriptedUpstream, database_url: str, faults: Mapping[str, AnyFault], *, stream: bool
) -> dict[str, Observed[AnyFault]]:
    """Returns the result of a request to each fault, by its name."""
    word = "streamed" if stream else "whole"
    for number, fault in enumerate(faults.values()):
        upstream.on_model(f"{word}-fault-{number}-", fault.script)

    def meet(number: int, fault: AnyFault) -> Observed[AnyFault]:
        more: dict[str, Any] = {"stream": True} if stream else {}
        seen = post_chat(gateway, f"{PREFIX}{word}-fault-{number}-", **more)
        return Observed(fault, seen, wait_for_row(database_url, seen.request_id))

    with ThreadPoolExecutor(len(faults)) as pool:
        return dict(zip(faults, pool.map(meet, range(len(faults)), faults.values()), strict=True))
