"""The common frame of all endpoints: requests are read, fail on demand, and are answered."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.sandbox.behaviours import Behaviour, parse_behaviour
from app.sandbox.books import Booking
from app.sandbox.events import Event
from app.sandbox.failures import RequestRefused, make_front_failure, make_server_failure
from app.sandbox.faults import apply_to_body, apply_to_stream
from app.sandbox.providers import Provider
from app.sandbox.response_body import ResponseBody
from app.sandbox.state import State
from app.sandbox.validation import EXTRA, make_message
from app.sandbox.web import Headers, Request, Response, dump_json

# With a larger max_tokens Fireworks serves only streamed requests.
_MAX_UNSTREAMED_TOKENS = 4096
_GARBAGE_BODY = b"<<< this is not JSON"


@dataclass
class Call:
    """A request with a JSON body.

    Attributes:
        provider: the provider that is asked.
        model: the requested model.
        behaviour: the behaviour of the model; of no kind if it is normal.
    """

    provider: Provider
    state: State
    request: Request
    body: dict[str, Any]
    model: str
    behaviour: Behaviour
    _booking: Booking | None = None

    def book(self, model: str, prompt: int, cached: int = 0, completion: int = 0) -> None:
        """Books the next answer with all its tokens; only Fireworks' books are kept."""
        self.state.stats.prompt_tokens += prompt
        if self.provider.keeps_books:
            tag = read_project(self.request.get_header("fireworks-annotations"))
            tier = self.body.get("service_tier")
            self._booking = self.state.books.open(model, self.model, tier, tag, prompt, cached, completion)

    def fail_on_demand(self) -> None:
        """Raises RequestRefused for the models that fail, and waits for the one that is slow to start."""
        kind, number, body, provider = self.behaviour.kind, self.behaviour.number, self.body, self.provider
        if kind == "slow-headers":
            self.request.connection.wait(number)
        elif kind == "flaky":
            asked = {name: body.get(name) for name in ("messages", "prompt", "input", "query", "queries")}
            attempt = self.state.count_attempt(str(body.get("model")), json.dumps(asked))
            if attempt <= self.behaviour.count:
                raise RequestRefused(provider.get_failure("503"))
        elif kind == "429-retry-after":
            failure = provider.get_failure("429")
            retry_after = ("retry-after", f"{number:g}")
            raise RequestRefused(type(failure)(failure.status, failure.body, (*failure.headers, retry_after)))
        elif kind[:1].isdigit():
            raise RequestRefused(provider.get_failure(kind))
        elif kind == "error-event" and not body.get("stream"):
            raise RequestRefused(provider.get_failure("500"))

    def refuse_invalid(self, problems: list[str]) -> None:
        """Raises RequestRefused for an invalid request; only Fireworks refuses extra fields and explains why."""
        if not self.provider.validates:
            if any(not problem.startswith(EXTRA) for problem in problems):
                raise RequestRefused(self.provider.get_failure("400"))
            return
        limit = self.body.get("max_tokens") or self.body.get("max_completion_tokens")
        if isinstance(limit, int) and limit > _MAX_UNSTREAMED_TOKENS and not self.body.get("stream"):
            text = f"Requests with max_tokens > {_MAX_UNSTREAMED_TOKENS} must have stream=true"
            raise RequestRefused(make_front_failure(400, text, "BAD_REQUEST", "max_tokens"))
        if problems:
            raise RequestRefused(make_server_failure(400, make_message(problems)))

    def get_request_id(self) -> str:
        """Returns the id for the header of a response: the client's, or a generated one."""
        return self.request.get_header("x-request-id") or self.request.id_hex

    def make_stream(self, events: Iterator[Event], headers: Headers) -> Response:
        """Returns a stream of events."""
        events = apply_to_stream(self.behaviour, events, self.provider.stream_error)
        body = ResponseBody(events, self.request.connection, self.state.stats, stream=True, booking=self._booking)
        return Response(200, (("content-type", "text/event-stream; charset=utf-8"), *headers), body)

    def make_whole(
        self, payload: object, headers: Headers | None = None, *, total_s: float | None = None, tokens: int = 0
    ) -> Response:
        """Returns one JSON body.

        Args:
            payload: the content.
            headers: by default those of a response that is not generated token by token.
            total_s: the seconds until it is sent; by default those until a stream's first event.
            tokens: the number of its tokens that are counted as sent.
        """
        content = _GARBAGE_BODY if self.behaviour.kind == "garbage" else dump_json(payload)
        if headers is None:
            headers = (("x-request-id", self.get_request_id()), *self.provider.headers)
        own = (("content-type", "application/json"), ("content-length", str(len(content))))
        total_s = self.state.options.first_event_s if total_s is None else total_s
        events = apply_to_body(self.behaviour, content, total_s, tokens)
        connection, stats = self.request.connection, self.state.stats
        body = ResponseBody(events, connection, stats, stream=False, booking=self._booking)
        return Response(200, own + headers, body)


def read_project(annotations: str) -> str:
    """Returns the project in the header Fireworks-Annotations, as in `team=a,project=b`; "" without one."""
    pairs = (pair.partition("=") for pair in annotations.split(","))
    return next((value.strip() for name, _, value in pairs if name.strip() == "project"), "")


def read_call(provider: Provider, state: State, request: Request, model: str | None = None) -> Call:
    """Returns a request with a valid key and an object as its body.

    Args:
        model: the model, if it is not in the body.

    Raises:
        RequestRefused: the request has no valid key, no such body, or no model.
    """
    provider.raise_if_agent_refused(request)
    provider.raise_if_key_refused(request)
    body = _parse_body(provider, request)
    name = _get_model_name(provider, body) if model is None else model
    state.stats.by_model[name] += 1
    return Call(provider, state, request, body, name, parse_behaviour(name) or Behaviour("", 0))


def _parse_body(provider: Provider, request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request; raises RequestRefused for any other body."""
    try:
        body = json.loads(request.body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise RequestRefused(provider.get_failure("400"))
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _get_model_name(provider: Provider, body: dict[str, Any]) -> str:
    """Returns the requested model; raises RequestRefused if there is none."""
    name = body.get("model")
    if isinstance(name, str) and name:
        return name
    if provider.validates:
        raise RequestRefused(make_server_failure(400, "Field required, field: 'model'"))
    raise RequestRefused(provider.get_failure("400"))
