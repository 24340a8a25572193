"""The faults of a provider as clients of translated endpoints see them: each SDK, and the events one by one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.faults.cases import SECTIONS, Fault
from tests.faults.clients import TIMEOUT_S, Met, make_openai, meet
from tests.faults.nginx import Door
from tests.faults.scripts import stream
from tests.faults.table import recorded
from tests.support.answers import chunk
from tests.support.chat import PREFIX, wait_for_row
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.sdks import anthropic, httpx2, openai


def _call(name: str | None, arguments: str) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    piece = {"index": 0, "function": function} | ({"id": "call_0", "type": "function"} if name else {})
    event = chunk()
    event["choices"][0]["delta"] = {"tool_calls": [piece]}
    return event


_NAMES = (
    "reads the request and is silent",
    "answers 503 again and again",
    "answers 429, retry-after 60",
    "closes after the headers",
    "falls silent after the headers",
    "closes after the third event",
    "resets after the third event",
    "ends the answer properly after the third event",
    "falls silent after the third event",
    "closes before `[DONE]`",
    "sends an error event",
    "says `[DONE]` before a finish reason",
    "sends an event that is no JSON",
    "cuts its stream at every byte, in characters too",
    "sends no usage",
)
_KNOWN = {fault.name: fault for faults in SECTIONS.values() for fault in faults}
FAULTS: list[Fault] = [
    *(_KNOWN[name] for name in _NAMES),
    Fault(
        "closes in the arguments of a tool call",
        stream([chunk("one"), _call("look", ""), _call(None, '{"at": '), _call(None, '"x')], ending="fin"),
        usage="counted",
    ),
]


@dataclass(frozen=True)
class Api:
    """An API that is translated to chat.

    Attributes:
        title: its section of the page.
        sdk: the column of its SDK.
        path: its path.
        make_body: model → the body of a request for a stream.
        ask_sdk: (door, model) → the official SDK's result for a stream: "completes", or the error that it raised.
        ends: the events that a client takes for the end of a complete response.
    """

    title: str
    sdk: str
    path: str
    make_body: Callable[[str], dict[str, Any]]
    ask_sdk: Callable[[Door, str], str]
    ends: frozenset[str]


@dataclass
class Translated:
    """The observations of one fault: the bare client's results and rows at each door, and the SDK's result."""

    fault: Fault
    met: dict[str, Met] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    sdk: str = ""


def _make_messages_body(model: str) -> dict[str, Any]:
    return {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello!"}], "stream": True}


@cache
def _anthropic(door: Door) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=door.url, api_key=door.key, max_retries=0, timeout=TIMEOUT_S)


def _ask_anthropic(door: Door, model: str) -> str:
    body = _make_messages_body(model)
    del body["stream"]
    try:
        with _anthropic(door).messages.stream(**body) as events:
            events.until_done()
    except anthropic.APIError as error:
        kind = error.body.get("error", {}).get("type") if isinstance(error.body, dict) else None
        return f"raises {type(error).__name__}" + (f" `{kind}`" if kind else "")
    return "completes"


MESSAGES = Api(
    "Messages: the provider, in a stream",
    "anthropic",
    "/v1/messages",
    _make_messages_body,
    _ask_anthropic,
    frozenset({"message_delta", "message_stop"}),
)


def _make_responses_body(model: str) -> dict[str, Any]:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
    return {"model": model, "input": "Hello!", "tools": [tool], "stream": True}


def _ask_openai(door: Door, model: str) -> str:
    said = ""
    try:
        for event in make_openai(door).responses.create(**_make_responses_body(model)):
            if event.type == "response.failed":
                said = f" after response.failed `{event.response.error.code}`"
    except (openai.APIError, httpx2.HTTPError) as error:
        kind = f" `{error.code or error.type}`" if isinstance(error, openai.APIStatusError) else ""
        return f"raises {type(error).__name__}{kind}{said}"
    return "completes" + said


RESPONSES = Api(
    "Responses: the provider, in a stream",
    "openai",
    "/v1/responses",
    _make_responses_body,
    _ask_openai,
    frozenset({"response.completed", "response.incomplete"}),
)
APIS = [MESSAGES, RESPONSES]


def observe_translated(
    api: Api, doors: Sequence[Door], upstream: ScriptedUpstream, database_url: str
) -> dict[str, Translated]:
    """Returns the observations of each fault over one API, by its name."""
    observed = {fault.name: Translated(fault) for fault in FAULTS}

    def ask(number: int, seen: Translated, door: Door) -> None:
        model = f"{PREFIX}{api.sdk}-fault-{number}-{door.name}"
        met = meet(door, api.make_body(model + "-bare"), path=api.path)
        seen.met[door.name] = met
        seen.rows[door.name] = wait_for_row(database_url, met.headers["x-request-id"])
        if door.name == "direct":
            seen.sdk = api.ask_sdk(door, model + "-sdk")

    with ThreadPoolExecutor(24) as pool:
        jobs = []
        for number, seen in enumerate(observed.values()):
            upstream.on_model(f"{api.sdk}-fault-{number}-", seen.fault.script)
            jobs += [pool.submit(ask, number, seen, door) for door in doors]
        for job in jobs:
            job.result()
    return observed


def get_events(met: Met) -> list[str]:
    """Returns the names of the events of a stream, without heartbeats."""
    lines = met.body.decode().splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    return [name for name in names if name != "ping"]


def get_error(met: Met) -> Mapping[str, Any]:
    """Returns the error of a response, or of the last event of a stream; {} if there is none."""
    last = met.body.decode().rstrip().rpartition("data: ")[2]
    found = json.loads(last) if last.startswith("{") else {}
    error = found.get("error") or (found.get("response") or {}).get("error")
    return error if isinstance(error, dict) else {}


def translated_line(api: Api, seen: Translated) -> dict[str, str]:
    """Returns the line of a fault over a translated API."""
    words = {door: _describe(met) for door, met in seen.met.items()}
    return {
        "fault": seen.fault.name,
        "client, directly": words["direct"],
        "client behind nginx": "the same" if len(set(words.values())) == 1 else words["nginx"],
        api.sdk: seen.sdk,
        "recorded": recorded(seen.rows["direct"]),
    }


def _describe(met: Met) -> str:
    error = get_error(met)
    kind = f" `{error.get('type') or error.get('code')}`" if error else ""
    if "event-stream" not in met.headers.get("content-type", ""):
        return f"{met.status}{kind}"
    return ", ".join(_count(get_events(met))) + f"{kind}, {met.ended}"


def _count(names: Iterable[str]) -> Iterable[str]:
    for name, group in itertools.groupby(names):
        count = len(list(group))
        name = name.removeprefix("response.")
        yield f"{name} × {count}" if count > 1 else name
