"""A simulated hour in which the best of three providers degrades; degradation.py sums it up.

The clock is simulated and the providers are models. The routing decisions are made by the gateway's own code: routes
and their order, the memory of failures, circuit breakers, retries, fallback, and the quality of the last half hour,
which is computed every 15 seconds from the results of the simulated requests. One worker gets all requests.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import requests

from app.db.histogram import GAMMA
from app.db.recent_quality import FirstTokenTimes, GivenUp, OutcomeSums, RecentQuality
from app.errors import GatewayError
from app.runtime import get_component
from app.services.endpoints import CHAT
from app.services.inference import Exchange, Pipeline
from app.services.inference.adaptation import UpstreamRequest
from app.services.quality.quality import Quality, make_quality
from app.services.streaming import ClientConnection
from app.upstream.errors import make_response_error, make_send_error
from benchmarks.simulated import Clock, simulated_gateway

# The model, which all three providers list under this name.
MODEL = "zai-org/GLM-5.3-Flash"

# The provider that degrades. It is the cheapest, with the lowest time to the first token and the highest throughput.
BEST = "deepinfra"

# It degrades between BEGIN_S and END_S.
BEGIN_S, END_S, HOUR_S = 1_200.0, 2_400.0, 3_600.0

# The share of requests that name a provider, any of the three. Without them, nothing would be known of providers that
# routing does not choose.
NAMING = 0.05

PROMPT_TOKENS, COMPLETION_TOKENS = 1_000, 300

# The time that a provider takes to refuse a request, in seconds.
_REFUSES_IN_S = 0.2

Sort = Literal["price", "latency", "throughput"]
Trouble = Literal["30 % fail", "all fail", "slow"]


class Model(NamedTuple):
    """A provider: its median time to the first token, its speed, and its prices in USD per million tokens."""

    ttft_s: float
    tokens_per_second: float
    prompt: float
    completion: float

    @property
    def cost_usd(self) -> float:
        """The cost of a request in USD."""
        return (PROMPT_TOKENS * self.prompt + COMPLETION_TOKENS * self.completion) / 1_000_000


MODELS: Mapping[str, Model] = {
    "deepinfra": Model(0.3, 120.0, 0.40, 1.60),
    "chutes": Model(0.45, 90.0, 0.50, 2.00),
    "featherless": Model(0.6, 60.0, 0.60, 2.40),
}

# The share of requests that a healthy provider fails.
_USUAL_FAILURES = 0.005


class Result(NamedTuple):
    """The result of a request.

    Attributes:
        at_s: when it arrived, in seconds from the start of the hour.
        served_by: the provider that served it; None if the caller got an error.
        tries: the providers that it was sent to.
        waited_s: the time until the first token or the error.
    """

    at_s: float
    served_by: str | None
    tries: tuple[str, ...]
    waited_s: float


class _Response(NamedTuple):
    status: int
    request_id: None = None


class _Client:
    """A substitute for a provider's client that sends HTTP requests."""

    def __init__(self, name: str, title: str, hour: Hour) -> None:
        self._name, self._title, self._hour = name, title, hour

    def post(self, path: str, content: bytes, *, first_byte_timeout_s: float | None = None, **_: Any) -> _Response:
        """Waits as the provider would, and returns its response or raises its error."""
        hour = self._hour
        failing, slowness = hour.get_state(self._name)
        if hour.chance.random() < failing:
            hour.clock.sleep(_REFUSES_IN_S)
            raise make_response_error(self._title, "KEY", status=503, headers={}, request_id=None, content=b"")
        waits_s = MODELS[self._name].ttft_s * slowness * hour.chance.lognormvariate(0, 0.3)
        if first_byte_timeout_s is not None and waits_s > first_byte_timeout_s:
            hour.clock.sleep(first_byte_timeout_s)
            raise make_send_error(self._title, requests.ReadTimeout())
        hour.clock.sleep(waits_s)
        return _Response(200)


class Hour:
    """One simulated hour.

    Args:
        sort: ROUTING_SORT.
        trouble: the trouble of the best provider.
        per_second: the mean number of requests per second; hours with the same `seed` get the same requests.
        settings: further settings of the gateway.
    """

    def __init__(self, sort: Sort, trouble: Trouble, *, per_second: float, seed: int = 1, **settings: str) -> None:
        self._trouble = trouble
        self._per_second = per_second
        self._seed = seed
        self._settings = {"ROUTING_SORT": sort, **settings}
        self.chance = random.Random(seed)
        self._arrivals = random.Random(seed)
        self.clock = Clock()
        self.results: list[Result] = []
        # Request → the time of its first token.
        self._began_s: dict[str, float] = {}
        # Minute → the results of its requests, in the form of the tables of sums.
        self._sums: dict[int, Counter[tuple[Any, ...]]] = defaultdict(Counter)

    def run(self) -> list[Result]:
        """Runs the hour, and returns the results of the requests that named no provider."""
        random.seed(self._seed)  # The gateway's pauses are random.
        prices = {name: (model.prompt, model.completion) for name, model in MODELS.items()}
        with simulated_gateway(self.clock, MODEL, prices, self._make_client, self.relay, self._settings):
            self._learn_the_past()
            self.clock.start(0.0, self._measure)
            for at_s, naming in self._make_arrivals():
                self.clock.start(at_s, lambda naming=naming: self._request(naming))
            self.clock.run()
        return self.results

    def _make_client(self, name: str, title: str) -> _Client:
        return _Client(name, title, self)

    def _make_arrivals(self) -> Iterator[tuple[float, str | None]]:
        at_s, chance = 0.0, self._arrivals
        while (at_s := at_s + chance.expovariate(self._per_second)) < HOUR_S:
            yield at_s, chance.choice(list(MODELS)) if chance.random() < NAMING else None

    def get_state(self, name: str) -> tuple[float, float]:
        """Returns the share of requests that a provider fails now, and the factor by which its answers are slower."""
        if name != BEST or not BEGIN_S <= self.clock.elapsed_s < END_S:
            return _USUAL_FAILURES, 1.0
        return {"30 % fail": (0.3, 1.0), "all fail": (1.0, 1.0), "slow": (_USUAL_FAILURES, 8.0)}[self._trouble]

    def _request(self, naming: str | None) -> None:
        began_s = self.clock.elapsed_s
        exchange = Exchange(CHAT, "key", ClientConnection(None))
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
        body |= {} if naming is None else {"provider": naming}
        served_by, waited_s = None, None
        try:
            get_component(Pipeline).serve(exchange, lambda: json.dumps(body).encode())
        except GatewayError:
            waited_s = self.clock.elapsed_s - began_s
        else:
            served_by = exchange.record.gateway
            waited_s = self._began_s.pop(exchange.request_id) - began_s
        self._count(exchange)
        if naming is None:
            tries = tuple(attempt["provider"] for attempt in exchange.record.attempts) or (served_by or BEST,)
            self.results.append(Result(began_s, served_by, tries, waited_s))

    def relay(self, pipeline: Pipeline, exchange: Exchange, request: UpstreamRequest, sent_s: float) -> None:
        """Replaces `Pipeline._relay`: the first token comes with the head, the others at the provider's speed."""
        pipeline._dispatch(exchange, request)
        record = exchange.record
        if pipeline.selection.health.states:
            pipeline.selection.health.record_success(request.target)
        self._began_s[exchange.request_id] = self.clock.elapsed_s
        record.ttft_ms = (self.clock.monotonic() - exchange.served_from_s) * 1000
        self.clock.sleep(COMPLETION_TOKENS / self._get_speed(request.target.provider.name))
        exchange.finish("ok", 200)

    def _get_speed(self, name: str) -> float:
        return MODELS[name].tokens_per_second / self.get_state(name)[1]

    def _count(self, exchange: Exchange) -> None:
        """Counts a record as the triggers on activity do."""
        record, sums = exchange.record, self._sums[int(self.clock.elapsed_s // 60)]
        sums["outcome", record.gateway, record.outcome, record.error_type or ""] += 1
        if record.ttft_ms is not None:
            sums["ttft", record.gateway, math.ceil(math.log(record.ttft_ms) / math.log(GAMMA))] += 1
            sums["speed", record.gateway] += round(1000 * COMPLETION_TOKENS / self._get_speed(str(record.gateway)))
        failed = {attempt["provider"] for attempt in record.attempts if attempt["error"]}
        for name in failed - {record.gateway}:
            sums["given up", name] += 1

    def _learn_the_past(self) -> None:
        """Fills in half an hour of quality as healthy providers would have had it."""
        for minute in range(-30, 0):
            for name, model in MODELS.items():
                sums = self._sums[minute]
                sums["outcome", name, "ok", ""] += 2
                sums["ttft", name, math.ceil(math.log(model.ttft_s * 1000) / math.log(GAMMA))] += 2
                sums["speed", name] += round(2_000 * COMPLETION_TOKENS / model.tokens_per_second)

    def _measure(self) -> None:
        while self.clock.elapsed_s < HOUR_S:
            quality = get_component(Quality)
            quality._measured, quality._measured_s = make_quality(self._read_recent()), self.clock.monotonic()
            self.clock.sleep(15.0 * self.chance.uniform(1.0, 1.2))

    def _read_recent(self) -> RecentQuality:
        """Returns the result that `select_recent_quality` would return."""
        now, found = int(self.clock.elapsed_s // 60), Counter[tuple[Any, ...]]()
        for minute, sums in self._sums.items():
            if minute >= now - 30:
                found.update(sums)
        outcomes, times, given_up = [], defaultdict[str, dict[int, int]](dict), []
        for key, count in found.items():
            if key[0] == "outcome":
                is_ok = key[2] == "ok"
                tokens, ms = (count * COMPLETION_TOKENS, float(found["speed", key[1]])) if is_ok else (0, 0.0)
                outcomes.append(OutcomeSums(key[1], MODEL, key[2], key[3], count, tokens, ms))
            elif key[0] == "ttft":
                times[key[1]][key[2]] = count
            elif key[0] == "given up":
                given_up.append(GivenUp(key[1], MODEL, count))
        return RecentQuality(outcomes, [FirstTokenTimes(name, MODEL, each) for name, each in times.items()], given_up)
