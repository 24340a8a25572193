"""Requests while the gateway itself, its database or its catalogs fail, one after the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg2

from app.services.inference.circuit_breaker import THRESHOLDS
from tests.faults.cases import FINISH, ONE
from tests.faults.clients import NO_CURL, ask_curl, ask_sdk, meet
from tests.faults.nginx import Door
from tests.faults.observe import Views, what_provider_saw
from tests.faults.scripts import answer, stream
from tests.support.answers import DONE, catalog_answer, chat_answer, chunk
from tests.support.chat import PREFIX, chat_body, open_chat, request, rows_where
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Script, hang, wait_for
from tests.support.waiting import wait_until

# One worker, so that signals reach the right one, and a drain short enough for a test.
SETTINGS = {
    "GRACEFUL_TIMEOUT": "8",
    "DRAIN_TIMEOUT": "2",
    "STREAM_HEARTBEAT": "0.5",
    "UPSTREAM_RETRIES": "1",
    # More requests than any fault has in flight, except the one that fills the gateway.
    "MAX_LIVE_REQUESTS": "40",
}

# Long, because these tests start and stop processes, which takes time on a busy machine.
_PATIENCE_S = 60.0

# The failure of each provider's list of models in this module's gateway.
BROKEN_CATALOGS: dict[str, tuple[str, Script]] = {
    "fireworks": ("is silent", [hang()]),
    "featherless": ("answers 500", answer({"error": {"message": "oops"}}, 500)),
    "deepinfra": ("sends garbage", answer(b"<html>")),
    "chutes": ("sends an empty list", catalog_answer()),
}


@dataclass
class Event(Views):
    """One fault of the gateway or its surroundings, and the observations of the requests in flight from every side.

    Attributes:
        name: its name in the table.
        outcome: of the rows.
        time: the bound on its time, in words.
    """

    name: str
    outcome: str
    time: str


class Ordeal:
    """Puts one gateway through all these faults, one after the other.

    Attributes:
        events: the observed faults, in order.
        breakers: the breakers in `/ready` while one was open.
        health_when_full: the status of `/health` while the gateway had no room.
    """

    def __init__(
        self, gateway: Gateway, doors: list[Door], upstreams: dict[str, ScriptedUpstream], postgres: Postgres, url: str
    ) -> None:
        self.events: list[Event] = []
        self.breakers: list[dict[str, Any]] = []
        self.health_when_full = 0
        self._gateway = gateway
        self._doors = doors
        self._upstreams = upstreams
        self._upstream = upstreams["fireworks"]
        self._postgres = postgres
        self._url = url
        self._pool = ThreadPoolExecutor(32)

    def run(self) -> None:
        """Causes all faults in order; the last one stops the gateway."""
        with self._pool:
            self._live_without_catalogs()
            self._live_without_postgres()
            self._fail_fast()
            self._be_full()
            self._kill_worker()
            self._reload()
            self._stop()

    def _live_without_catalogs(self) -> None:
        for provider, (how, _) in BROKEN_CATALOGS.items():
            event = Event(f"the catalog of a provider {how}", "ok", "at once")
            requests = self._begin(event, f"catalog-{provider}-", chat_answer("Hi"), stream=False, provider=provider)
            self._end([(event, requests)])

    def _live_without_postgres(self) -> None:
        self._postgres.stop()
        event = Event("PostgreSQL is away", "ok", "at once; recorded when it is back")
        requests = self._begin(event, "no-database-", stream([*FINISH, DONE]))
        wait_until(
            lambda: len(event.met) + len(event.sdk) + len(event.curl) == len(requests),
            what="all answers",
            timeout_s=_PATIENCE_S,
        )
        self._postgres.start()
        self._end([(event, requests)])

    def _fail_fast(self) -> None:
        event = Event("a provider has suspended the account, twice in a row", "upstream_error", "at once")
        upstream = self._upstreams["chutes"]
        upstream.on_model("suspended-", answer({"error": {"message": "pay"}}, 402))
        for number in range(THRESHOLDS["account"]):  # Two models, because one proves nothing about the others.
            meet(self._doors[0], chat_body(f"suspended-first-{number}", provider="chutes"))
        self.breakers = self._get_ready()["breakers"]
        self._end([(event, self._submit(event, "suspended-", True, "chutes"))])

    def _be_full(self) -> None:
        event = Event("`MAX_LIVE_REQUESTS` are being served", "rejected", "at once")
        self._upstream.on_model("filler", stream([ONE], ending="hang"))
        with ExitStack() as stack:
            places = int(SETTINGS["MAX_LIVE_REQUESTS"])
            for number in range(places):
                stack.enter_context(open_chat(self._gateway, f"filler-{number}", provider="fireworks"))
            wait_until(lambda: _count(self._upstream, "filler") == places, _PATIENCE_S, "the fillers")
            self._end([(event, self._submit(event, "overload-", True, "fireworks"))])
            self.health_when_full = request("GET", self._gateway.url + "/health").status
        wait_until(self._is_empty, what="the gateway to have room again", timeout_s=_PATIENCE_S)

    def _is_empty(self) -> bool:
        fillers = [seen for seen in list(self._upstream.requests) if "filler" in str(seen.body)]
        return all(seen.gone_at is not None for seen in fillers)

    def _get_ready(self) -> Any:
        return request("GET", self._gateway.url + "/ready").json

    def _kill_worker(self) -> None:
        streamed = Event("SIGKILL to the worker, in a stream", "lost", "at once")
        whole = Event("SIGKILL to the worker, before an answer that is not streamed", "lost", "at once")
        begun = [
            (streamed, self._begin(streamed, "killed-stream-", stream([ONE], ending="hang"))),
            (whole, self._begin(whole, "killed-whole-", [hang()], stream=False)),
        ]
        (worker,) = self._gateway.worker_pids()
        os.kill(worker, signal.SIGKILL)
        self._end(begun)

    def _reload(self) -> None:
        gate = Gate()
        event = Event("SIGHUP, in a stream", "ok", "as long as it takes, at most `DRAIN_TIMEOUT`")
        requests = self._begin(event, "reloaded-", stream([ONE, wait_for(gate), *FINISH[1:], DONE]))
        before = self._gateway.worker_pids()
        self._gateway.send_signal(signal.SIGHUP)
        wait_until(lambda: set(self._gateway.worker_pids()) - set(before), what="a new worker", timeout_s=_PATIENCE_S)
        gate.open()
        self._end([(event, requests)])
        gate.close()
        wait_until(
            lambda: not set(self._gateway.worker_pids()) & set(before),
            what="the old worker to go",
            timeout_s=_PATIENCE_S,
        )

    def _stop(self) -> None:
        gate = Gate()
        drained = Event("SIGTERM, in a stream that ends in time", "ok", "as long as it takes, at most `DRAIN_TIMEOUT`")
        cut = Event("SIGTERM, in a stream that does not", "gateway_shutdown", "`DRAIN_TIMEOUT` + 1 s")
        busy = Event("SIGTERM, in a stream that never pauses", "gateway_shutdown", "`DRAIN_TIMEOUT` + 1 s")
        whole = Event("SIGTERM, before an answer that is not streamed", "gateway_shutdown", "`DRAIN_TIMEOUT` + 1 s")
        begun = [
            (drained, self._begin(drained, "drained-", stream([ONE, wait_for(gate), *FINISH[1:], DONE]))),
            (cut, self._begin(cut, "cut-", stream([ONE], ending="hang"))),
            (
                busy,
                self._begin(busy, "busy-", stream([event for n in range(900) for event in (chunk(str(n)), _pause)])),
            ),
            (whole, self._begin(whole, "whole-", [hang()], stream=False)),
        ]
        self._gateway.send_signal(signal.SIGTERM)
        gate.open()
        self._end(begun)
        gate.close()

    def _begin(
        self, event: Event, marker: str, script: Script, *, stream: bool = True, provider: str = "fireworks"
    ) -> list[Future[None]]:
        """Starts every client at every door, and returns once the provider has received all requests."""
        upstream = self._upstreams[provider]
        upstream.on_model(marker, script)
        futures = self._submit(event, marker, stream, provider)
        wait_until(
            lambda: _count(upstream, marker) >= len(futures),
            what=f"{marker} to reach the provider",
            timeout_s=_PATIENCE_S,
        )
        return futures

    def _submit(self, event: Event, marker: str, stream: bool, provider: str) -> list[Future[None]]:
        jobs: dict[str, Callable[..., None]] = {"bare": self._meet, "sdk": self._ask_sdk}
        jobs |= {} if NO_CURL else {"curl": self._ask_curl}
        return [
            self._pool.submit(job, event, door, f"{PREFIX}{marker}{door.name}-{name}", stream, provider)
            for door in self._doors
            for name, job in jobs.items()
        ]

    def _end(self, begun: list[tuple[Event, list[Future[None]]]]) -> None:
        for event, futures in begun:
            for future in futures:
                future.result()
            self.events.append(event)

    def _meet(self, event: Event, door: Door, model: str, stream: bool, provider: str) -> None:
        met = event.met[door.name] = meet(door, chat_body(model, stream=stream, provider=provider))
        event.provider[door.name] = what_provider_saw(self._upstreams[provider], model)
        # Responses that nginx itself generates carry an id made by nginx.
        named = "x-gateway-provider" in met.headers or met.status in {429, 503}
        wanted = ("request_id", met.headers["x-request-id"]) if named else ("model_requested", model)
        rows: list[dict[str, Any]] = wait_until(lambda: self._rows(*wanted), _PATIENCE_S, what=f"the row of {model}")
        (event.rows[door.name],) = rows

    def _rows(self, column: str, value: str) -> list[dict[str, Any]]:
        try:
            return rows_where(self._url, column, value)
        except psycopg2.OperationalError:
            return []  # The server is away, or is just starting again.

    def _ask_sdk(self, event: Event, door: Door, model: str, stream: bool, provider: str) -> None:
        event.sdk[door.name] = ask_sdk(door, model, stream=stream, provider=provider)

    def _ask_curl(self, event: Event, door: Door, model: str, stream: bool, provider: str) -> None:
        event.curl[door.name] = ask_curl(door, model, stream=stream, provider=provider)


def _count(upstream: ScriptedUpstream, marker: str) -> int:
    """Returns the number of requested models whose name begins with the marker; other markers may end with its text."""
    models = {str(seen.json["model"]) for seen in list(upstream.requests) if seen.json}
    return sum(f"/{marker}" in f"/{model}" for model in models)


def _pause(exchange: Any) -> None:
    exchange.wait(0.05)
