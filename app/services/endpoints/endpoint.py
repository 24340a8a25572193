"""The record of an inference endpoint. It holds everything that differs, so the pipeline needs no special cases.

To add an endpoint, write a file here with its record, and add a row to ENDPOINTS (registry.py) and an entry to the
`serves` of each provider that supports it. An endpoint that no provider serves is translated to one that they do
(translation.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

import msgspec

from app.errors import BadRequest, GatewayError
from app.lenient_json import decode_leniently
from app.services.endpoints.provider_choice import ProviderChoice
from app.services.endpoints.stream_summary import ResponseSummary, StreamSummary
from app.services.endpoints.token_bounds import TokenBounds
from app.services.endpoints.translation import Translation


class InferenceBody(msgspec.Struct):
    """The fields that the bodies of all inference requests have in common. Unknown fields pass.

    A subclass adds the documented fields of its endpoint; bodies are checked against their types and ranges. If
    the type does not say enough for an error message, `Meta(extra={"must": "be …"})` has the text.

    Attributes:
        model: the model's name, in any form that people write; empty if only `models` names some.
        provider: the provider that should serve it, or which of them may. Like `models`, this field is the gateway's
            own and is never sent to a provider.
        models: the models that may serve it if `model` does not, in this order.
        stream: whether the client wants Server-Sent Events.
    """

    model: str = ""
    provider: str | ProviderChoice | None = None
    models: tuple[str, ...] | None = None
    stream: bool | None = None


class StreamOptions(msgspec.Struct):
    """The documented fields of `stream_options`."""

    include_usage: bool | None = None


class EventKind(Enum):
    """The meaning of a stream's event for the client."""

    CONTENT = "content"
    USAGE = "usage"  # Only usage, for clients that asked for it.
    EMPTY = "empty"  # No data that an SDK could read, so the client does not get it.
    DONE = "done"  # The marker after the last event.
    ERROR = "error"  # The provider reports that it failed.
    OTHER = "other"  # Not part of the response, for example a ping, or an error in a form that only the reader knows.


class RepairedEvent(Exception):
    """Raised for an event that clients cannot read in its original form; nothing of it has been recorded yet.

    Attributes:
        data: the same event in a readable form, to be observed and sent in its place.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__("the event was repaired")
        self.data = data


class Collector(Protocol):
    """Assembles the events of a stream into the response that an unstreamed request would have returned."""

    def add(self, data: bytes) -> None:
        """Adds the data of one event of the kind CONTENT or USAGE."""
        ...

    def make_response(self) -> Any:
        """Returns the whole response, normalised as `Endpoint.normalise` does."""
        ...


class NoteSteps(NamedTuple):
    """The two steps of `StreamProtocol.note`. The compiled path for events takes the second one for most chunks itself.

    Attributes:
        decode: data → its chunk, with the attributes of `Chunk` (chunk_stream.py); raises for other data.
        record: (chunk, summary, now_s) → the result of `note`.
    """

    decode: Callable[[bytes], Any]
    record: Callable[[Any, StreamSummary, float], EventKind | None]


class StreamProtocol(Protocol):
    """The streaming of an endpoint: the meaning of its events, and when a stream is complete.

    Attributes:
        title: the name of such a stream in messages, as in "part of a chat stream".
        heartbeat: the bytes for the client while the provider is silent; SDKs do not take them for an event.
        event_names: the names of events that may hold part of the response; b"" stands for events without a name.
        note_steps: the steps of `note` for the compiled path for events; None if its chunks do not have `Chunk`'s form.
    """

    @property
    def note_steps(self) -> NoteSteps | None: ...
    @property
    def title(self) -> str: ...
    @property
    def heartbeat(self) -> bytes: ...
    @property
    def event_names(self) -> frozenset[bytes]: ...

    def request_stream(self, body: dict[str, Any]) -> None:
        """Changes a body in place to request a stream with usage, which the gateway always records."""
        ...

    def wants_usage(self, body: dict[str, Any]) -> bool:
        """Returns whether the client asked for the event that contains only usage."""
        ...

    def observe(self, data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
        """Records the contents of an event in `summary`, and returns its kind.

        Args:
            data: the event's data.
            summary: the summary of its stream.
            now_s: its arrival time, on the monotonic clock.

        Raises:
            UpstreamCut: the data is not an event of this protocol, and may have been part of the response.
            RepairedEvent: clients cannot read the data; observe the repaired data instead.
        """
        ...

    def note(self, data: bytes, summary: StreamSummary, now_s: float) -> EventKind | None:
        """Does the same for nearly all events, of CONTENT or USAGE; returns None, recording nothing, for others.

        Args: as for `observe`; the data is that of a short event.
        """
        ...

    def is_complete(self, summary: StreamSummary) -> bool:
        """Returns whether everything that has begun has finished."""
        ...

    def make_collector(self) -> Collector:
        """Returns a collector for one stream."""
        ...

    def make_events(self, response: Any) -> bytes:
        """Returns the stream from which a collector would make `response`, a normalised response.

        Raises:
            ValueError: the response is nested too deeply.
        """
        ...


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """The error shape of an API, used on all paths of its endpoints.

    Attributes:
        make_body: (error, request id) → the body of an HTTP response, as JSON.
        make_event: error → a Server-Sent Event that the API's SDKs raise in the middle of a stream. The stream of a
            translated endpoint has the events of its writer instead.
        get_status: error → the HTTP status of the response.
        request_id_header: the response header in which the API's SDKs expect the request id, besides `x-request-id`.
        client_header: a request header that only the API's clients send. They get this shape even on paths outside any
            API, such as the models; None if there is no such header.
    """

    make_body: Callable[[GatewayError, str], bytes]
    make_event: Callable[[GatewayError], bytes]
    get_status: Callable[[GatewayError], int] = operator.attrgetter("status")
    request_id_header: str | None = None
    client_header: str | None = None


OPENAI_ERRORS = ErrorShape(lambda error, request_id: error.to_json(), GatewayError.to_event)


OWN_FIELDS = frozenset({"provider", "models"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One inference endpoint.

    Attributes:
        name: its key in a provider's `serves`; for a translated endpoint, the name of the endpoint that serves it.
        path: its path at the gateway, which is also on activity records.
        title: the name of its response in messages, with an article: "a chat completion".
        body: the documented fields of its request, with types and ranges.
        estimate_prompt_tokens: body → an estimate of its prompt tokens, for the record if the provider does not count.
        get_output_bound: body → the most output tokens that it asks for; None if it does not say.
        bound_tokens: (body for a provider, bytes sent, context length or None) → the most tokens that it can use.
        summarize: whole response → its summary; raises ValueError if it is not a response of this endpoint.
        normalise: adds fields that a provider omitted from a whole response, in place, and returns it.
        own_fields: fields that only the gateway uses.
        prepare: changes a body in place, before it is sent, to the form that providers know, and returns the names of
            the removed fields; None if there is only one form.
        decode: the content of a whole response → its JSON values; raises ValueError if it is not JSON.
        encode: (normalised response, request's fields) → the content for the client, in the requested form; raises
            ValueError if that is impossible. None if it is plain JSON.
        count_choices: body → the number of requested choices, so that a stream with fewer does not count as complete;
            None if that is not checked.
        stream: its stream protocol; None if it does not stream.
        errors: the shape of its errors.
        translation: translates it to the endpoint of its name; all other fields except `path`, `body` and `errors` then
            belong to that one. None if providers serve it directly.
        output_field: the client's field for the output limit, for messages; None if it generates no text.
        clamps_output: whether a greater output limit is reduced to the room in the model's context.
    """

    name: str
    path: str
    title: str
    body: type[InferenceBody]
    estimate_prompt_tokens: Callable[[dict[str, Any]], int]
    get_output_bound: Callable[[dict[str, Any]], int | None]
    bound_tokens: Callable[[dict[str, Any], int, int | None], TokenBounds]
    summarize: Callable[[Any], ResponseSummary]
    normalise: Callable[[Any], Any]
    prepare: Callable[[dict[str, Any]], Iterable[str]] | None = None
    decode: Callable[[bytes], Any] = decode_leniently
    encode: Callable[[Any, InferenceBody], bytes] | None = None
    own_fields: frozenset[str] = OWN_FIELDS
    count_choices: Callable[[dict[str, Any]], int] | None = None
    stream: StreamProtocol | None = None
    errors: ErrorShape = OPENAI_ERRORS
    translation: Translation | None = None
    output_field: str | None = None
    clamps_output: bool = False


def make_parameter_error(param: str, must: str, *, is_missing: bool = False) -> BadRequest:
    """Returns the error for a wrong request field.

    Args:
        param: the field.
        must: the requirement, as in "be true or false".
        is_missing: whether the request lacks the field; then it is required. A null counts as absent.
    """
    message = f"`{param}` is required." if is_missing else f"`{param}` must {must}."
    return BadRequest(message, param=param, code="invalid_parameter")
