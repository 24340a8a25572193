"""Translation of an endpoint that no provider serves: its requests become those of an endpoint that they serve.

A translated endpoint is made from the record of the other one, as in
`dataclasses.replace(CHAT, path="/v1/…", body=…, translation=…, errors=…)`. It keeps the other's `name`, so routing,
adaptation, streaming and metering are those of the other endpoint; only the client's side differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.errors import GatewayError


@dataclass(slots=True)
class Translated:
    """A request in the other endpoint's form.

    Attributes:
        body: the body for the other endpoint; the client's body is not changed.
        dropped: the names of the fields without a counterpart, for the header x-gateway-dropped-params.
        applied: the other changes, for x-gateway-applied-params, as in "messages[].role=system->user".
        context: data for translating the response, for example the tools' original names.
    """

    body: dict[str, Any]
    dropped: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    context: Any = None


class EventWriter(Protocol):
    """Writes the stream of one translated response; its methods are called in the order of the stream.

    Attributes:
        heartbeat: the bytes for the client while the provider is silent; SDKs must accept them at any time.
    """

    heartbeat: bytes

    def write(self, data: bytes) -> bytes:
        """Returns the events for one chunk of the other endpoint; none (b"") if it has nothing for the client.

        Args:
            data: the data of an event of the kind CONTENT or USAGE. It has been observed, and repaired if necessary.

        Raises:
            UpstreamError: the chunk cannot be translated; the stream is then ended with `fail`.
        """
        ...

    def end(self) -> bytes:
        """Returns the last events of a complete stream.

        Raises:
            UpstreamError: the received output cannot be translated; the stream is then ended with `fail`.
        """
        ...

    def fail(self, error: GatewayError) -> bytes:
        """Returns the event that reports `error`, which ended the stream early, to the client."""
        ...


class Translation(Protocol):
    """Translates one API to the endpoint that serves it. It keeps no state between calls."""

    def translate_request(
        self, body: dict[str, Any], fields: Any, get_header: Callable[[str], str | None]
    ) -> Translated:
        """Returns a request for the other endpoint.

        Args:
            body: the client's body.
            fields: its documented fields, validated: a Struct of the type `Endpoint.body`.
            get_header: maps a lower-case name to the value of that header of the client's request, or to None.

        Raises:
            BadRequest: the request has a part that the other endpoint cannot express.
        """
        ...

    def translate_response(self, response: dict[str, Any], context: Any, request_id: str) -> dict[str, Any]:
        """Returns a whole response of this API.

        Args:
            response: the other endpoint's, normalised.
            context: the context of the translated request.
            request_id: the gateway's id of the request.

        Raises:
            UpstreamError: the response cannot be translated.
        """
        ...

    def make_writer(self, context: Any, request_id: str) -> EventWriter:
        """Returns the writer of one stream; the arguments are those of `translate_response`."""
        ...
