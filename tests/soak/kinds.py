"""The kinds of requests in the load: the upstream's script for each, and the required outcome of its record.

The model name of a request contains its kind and number, so that the client's observations, the upstream's counts and
the database's rows can be compared request by request.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.answers import chat_answer, chunk, error_event, head, json_answer, sse_stream, whole_stream
from tests.support.chat import HELLO, PREFIX
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Exchange, Script, close, pause, send

# The upstream takes some time; otherwise a killed worker would have almost nothing in flight.
_THINKS_S = 0.02
_BETWEEN_EVENTS_S = 0.005

# PRICE_FILE with the prices of every model, in USD per million tokens, and the cost of an answer of 11 and 3 tokens.
PRICES = 'unit = "usd_per_million_tokens"\n[fireworks."*"]\nprompt = 1\ncompletion = 2\n'
ANSWER_USD = "0.000017"


@dataclass(frozen=True)
class Kind:
    """One kind of request.

    Attributes:
        outcome: the outcome of its record if only the upstream ends it.
        stream: whether the client asks for events.
        script: the upstream's script; None for a request that never gets there.
        more: further fields of the body; None for a body that is not JSON.
        fails: how many attempts fail before one succeeds.
    """

    outcome: str
    stream: bool = False
    script: Script | None = None
    more: dict[str, Any] | None = None
    fails: int = 0


def _words() -> Script:
    events: list[Any] = []
    for event in whole_stream("one ", "two ", "three ", "four"):
        events += [event, pause(_BETWEEN_EVENTS_S)]
    return [pause(_THINKS_S), *sse_stream(events)]


def _error(status: int, connection: str = "keep-alive") -> Script:
    return [pause(_THINKS_S), *json_answer(error_event("Not now."), status, {"connection": connection})]


def _cut(ending: str) -> Script:
    return [pause(_THINKS_S), *sse_stream([chunk("one "), pause(_BETWEEN_EVENTS_S), chunk("two ")], ending=ending)]


_PLAIN: Script = [pause(_THINKS_S), *chat_answer("Hello.")]
_HALVED: Script = [send(head(200, {"content-type": "application/json", "content-length": "999"}) + b'{"id"'), close()]

KINDS: dict[str, Kind] = {
    "plain": Kind("ok", script=_PLAIN, more={}),
    "stream": Kind("ok", stream=True, script=_words(), more={}),
    "refused": Kind("upstream_error", script=_error(400), more={}),
    "limited": Kind("upstream_error", stream=True, script=_error(429), more={}),
    "broken": Kind("upstream_error", script=_error(500), more={}),
    "loaded": Kind("upstream_error", stream=True, script=_error(503), more={}),
    "dropped": Kind("upstream_error", script=[pause(_THINKS_S), close()], more={}),
    "halved": Kind("upstream_cut", script=_HALVED, more={}),
    "ended": Kind("upstream_cut", stream=True, script=_cut("fin"), more={}),
    "torn": Kind("upstream_cut", stream=True, script=_cut("half chunk"), more={}),
    "silent": Kind("upstream_timeout", stream=True, script=_cut("hang"), more={}),
    "endless": Kind("gateway_shutdown", stream=True, script=_cut("hang"), more={}),
    "garbled": Kind("rejected"),
    "hot": Kind("rejected", more={"temperature": "hot"}),
    "flaky": Kind("ok", script=_PLAIN, more={}, fails=1),
    "stubborn": Kind("ok", stream=True, script=_words(), more={}, fails=2),
    "hopeless": Kind("upstream_error", script=_error(503), more={}),
}

# The number of each kind in a hundred requests; failures are far more frequent than in production.
MIXED = {
    "plain": 30,
    "stream": 33,
    "refused": 4,
    "limited": 4,
    "broken": 4,
    "loaded": 4,
    "dropped": 3,
    "halved": 3,
    "ended": 3,
    "torn": 3,
    "silent": 1,
    "garbled": 4,
    "hot": 4,
}


def teach(upstream: ScriptedUpstream) -> None:
    """Registers the scripts of all kinds at the upstream."""
    for name, kind in KINDS.items():
        if kind.script is not None:
            upstream.on_model(f"/{name}-", [_failing(kind.fails), *kind.script] if kind.fails else kind.script)


def _failing(times: int) -> Callable[[Exchange], None]:
    """Returns a step that answers the first attempts of each request with 503 instead of the steps that follow."""
    attempts: Counter[str] = Counter()

    def step(exchange: Exchange) -> None:
        assert exchange.seen is not None
        model = exchange.seen.json["model"]
        attempts[model] += 1
        if attempts[model] <= times:
            # The close is announced, because an attempt on a closing connection would never be counted here.
            for one in [*_error(503, "close"), close()]:
                one(exchange)

    return step


def model_of(kind: str, number: int) -> str:
    """Returns the model name that a request of this kind and number asks for."""
    return f"{PREFIX}{kind}-{number}"


def body_of(kind: str, number: int) -> bytes:
    """Returns the body of a request of this kind and number."""
    chosen, model = KINDS[kind], model_of(kind, number)
    if chosen.more is None:
        return f'{{"model": "{model}", "messages": [oops'.encode()
    return json.dumps({"model": model, "messages": HELLO, "stream": chosen.stream} | chosen.more).encode()


def count_by_model(seen: list[SeenRequest]) -> Counter[str]:
    """Returns how many chat requests with each model name the upstream has read."""
    return Counter(request.json["model"] for request in seen if request.method == "POST")
