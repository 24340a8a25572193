"""Adapts a validated body to one target: a provider, and the model's id there.

The client's body is not changed, so that it can be adapted to another target after a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from app.services.endpoints import Endpoint, InferenceBody, make_parameter_error
from app.services.inference.routing import Target
from app.services.providers import EndpointSupport

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class UpstreamRequest:
    """A request in the form in which it is sent to one provider.

    Attributes:
        target: the provider, and the model's id there.
        path: the path, below the provider's base URL.
        content: the body, as JSON.
        stream: whether the provider is asked for a stream. The client may still get a whole response, made from it.
        show_usage: whether the client asked for the event that contains only usage.
        service_tier: the requested tier, on which the price depends.
        dropped: the names of the fields that were removed.
        prompt_tokens_estimate: an estimate for the record, used if the provider does not count tokens.
    """

    target: Target
    path: str
    content: bytes
    stream: bool
    show_usage: bool
    service_tier: str | None
    dropped: list[str]
    prompt_tokens_estimate: int


def adapt(body: dict[str, Any], fields: InferenceBody, endpoint: Endpoint, target: Target) -> UpstreamRequest:
    """Returns the request for a target.

    Args:
        body: the client's body.
        fields: its documented fields, validated.
        endpoint: the endpoint that was called.
        target: the provider and model to send it to.

    Raises:
        BadRequest: a field is out of this provider's range.
    """
    support = target.provider.serves[endpoint.name]
    _raise_if_out_of_range(body, support)
    adapted = {**body, "model": target.model}
    adapted.pop("provider", None)
    dropped = _drop_fields(adapted, support)
    _rename_fields(adapted, support)
    dropped += _drop_message_fields(adapted, support)
    stream, show_usage = fields.stream is True or _must_stream(adapted, endpoint, support), False
    if stream and endpoint.stream is not None:
        show_usage = endpoint.stream.wants_usage(adapted)
        endpoint.stream.request_stream(adapted)
    return UpstreamRequest(
        target=target,
        path=support.path,
        content=_encode(adapted),
        stream=stream,
        show_usage=show_usage,
        service_tier=adapted.get("service_tier"),
        dropped=dropped,
        prompt_tokens_estimate=endpoint.estimate_prompt_tokens(adapted),
    )


def _raise_if_out_of_range(body: dict[str, Any], support: EndpointSupport) -> None:
    for name, (least, most) in support.ranges.items():
        value = body.get(name)
        if value is not None and not least <= value <= most:
            raise make_parameter_error(name, f"be a whole number from {least} to {most}")


def _drop_fields(body: dict[str, Any], support: EndpointSupport) -> list[str]:
    """Removes fields that clients of OpenAI send but this provider refuses, and returns their names."""
    dropped = [name for name in body if name in support.dropped_fields]
    for name, values in support.accepted_values.items():
        if body.get(name) is not None and body[name] not in values:
            dropped.append(name)
    for name in dropped:
        del body[name]
    return dropped


def _rename_fields(body: dict[str, Any], support: EndpointSupport) -> None:
    for name, new_name in support.renamed_fields.items():
        if name in body and new_name not in body:
            body[new_name] = body.pop(name)


def _drop_message_fields(body: dict[str, Any], support: EndpointSupport) -> list[str]:
    fields, messages = support.dropped_message_fields, body.get("messages")
    if not fields or not isinstance(messages, list):
        return []
    names = {name: None for message in messages for name in fields.intersection(message)}
    if names:
        body["messages"] = [each if fields.isdisjoint(each) else _without(each, fields) for each in messages]
    return [f"messages[].{name}" for name in names]


def _without(message: dict[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in fields}


def _must_stream(body: dict[str, Any], endpoint: Endpoint, support: EndpointSupport) -> bool:
    limit = support.max_unstreamed_tokens
    if limit is None or endpoint.stream is None:
        return False
    return (endpoint.get_output_bound(body) or 0) > limit
