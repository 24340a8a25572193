"""What an inference endpoint is: the record that tells one from another, so that the pipeline knows none of them.

Adding an endpoint: a file here with its record, a row in ENDPOINTS (registry.py), and a word in the `serves` of each
provider that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import msgspec

from app.errors import BadRequest, GatewayError
from app.services.endpoints.stream_summary import ResponseSummary, StreamSummary


class InferenceBody(msgspec.Struct):
    """The fields that the body of every inference request has. Unknown fields pass.

    A subclass adds the documented fields of its endpoint; types and ranges are checked against it. Where a type is
    not enough to say what a field must be, `Meta(extra={"must": "be …"})` has the words.

    Attributes:
        model: the model's name in any form that people write.
        provider: who should serve it; the gateway's own field, never sent to a provider.
        stream: whether the client wants Server-Sent Events.
    """

    model: str
    provider: str | None = None
    stream: bool | None = None


class EventKind(Enum):
    """What an event of a stream means for the client."""

    CONTENT = "content"
    USAGE = "usage"  # Only usage: for clients that asked for it.
    EMPTY = "empty"  # Nothing that an SDK could read; it is left out.
    DONE = "done"  # The marker behind the last event.
    ERROR = "error"  # The provider reports that it failed.


class Collector(Protocol):
    """Puts the events of a stream together to the response that an unstreamed request would have had."""

    def add(self, data: bytes) -> None:
        """Takes in the data of one event of the kind CONTENT or USAGE."""
        ...

    def make_response(self) -> Any:
        """Returns the whole response, normalised as `Endpoint.normalise` does."""
        ...


class StreamProtocol(Protocol):
    """How an endpoint streams: what its events mean and when a stream is complete.

    Attributes:
        title: what messages call such a stream, as in "part of a chat stream".
        heartbeat: what a client is sent while the provider is silent; nothing that an SDK takes for an event.
    """

    title: str
    heartbeat: bytes

    def request_stream(self, body: dict[str, Any]) -> None:
        """Changes a body so that it asks for a stream, with the usage that the gateway always wants to know."""
        ...

    def wants_usage(self, body: dict[str, Any]) -> bool:
        """Tells whether the client asked for the event that holds only usage."""
        ...

    def observe(self, data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
        """Notes in `summary` what an event says, and returns its kind.

        Args:
            data: the event's data.
            summary: of the stream that it came in.
            now_s: when it came, on the monotonic clock.

        Raises:
            UpstreamCut: it is no event of this protocol.
        """
        ...

    def is_complete(self, summary: StreamSummary) -> bool:
        """Tells whether everything that was begun has been finished."""
        ...

    def make_collector(self) -> Collector:
        """Returns a collector for one stream."""
        ...


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How an API words an error.

    Attributes:
        make_body: the body of an HTTP response, as JSON.
        make_event: a Server-Sent Event, which the API's SDKs raise in mid-stream.
    """

    make_body: Callable[[GatewayError], bytes]
    make_event: Callable[[GatewayError], bytes]


OPENAI_ERRORS = ErrorShape(GatewayError.to_json, GatewayError.to_event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One inference endpoint.

    Attributes:
        name: its word in a provider's `serves`.
        path: where the gateway serves it; it stands on activity records too.
        title: what messages call its response, with an article: "a chat completion".
        body: the documented fields of its request, with types and ranges.
        estimate_prompt_tokens: about how many tokens a body's prompt has, for records of providers that do not count.
        get_output_bound: the most output tokens that a body asks for; None where it does not say.
        summarize: reads a whole response; raises ValueError where it is not one of this endpoint.
        normalise: fills in what a provider left out of a whole response, in place, and returns it.
        stream: how it streams; None where it does not.
        errors: how its API words an error.
    """

    name: str
    path: str
    title: str
    body: type[InferenceBody]
    estimate_prompt_tokens: Callable[[dict[str, Any]], int]
    get_output_bound: Callable[[dict[str, Any]], int | None]
    summarize: Callable[[Any], ResponseSummary]
    normalise: Callable[[Any], Any]
    stream: StreamProtocol | None = None
    errors: ErrorShape = OPENAI_ERRORS


def make_parameter_error(param: str, must: str) -> BadRequest:
    """Returns the refusal of a request field, with what the field must be."""
    return BadRequest(f"`{param}` must {must}.", param=param, code="invalid_parameter")
