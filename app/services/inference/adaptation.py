"""Adapts a validated body to one target: a provider, and the model's id there.

The client's body is not changed, so that it can be adapted to another target after a failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.lenient_json import encode
from app.services.endpoints import Endpoint, InferenceBody, Translated, make_parameter_error, replace_developer_role
from app.services.inference.fitting import fit_to_model
from app.services.inference.omission import Omissions, fit_to_schema, without, without_nulls
from app.services.inference.output_limit import limit_output, remove_replaced
from app.services.pricing import Price
from app.services.providers import EndpointSupport, get_client
from app.services.routing import Target

# Ids of sessions are UUIDs or digests. A provider may refuse a request with a longer header, so the header is dropped.
_MAX_SENT_HEADER_CHARACTERS = 256


# `n` must be one of these for a stream to be requested: with several choices, some providers' streams lack the usage.
_ONE = (None, 1)


@dataclass(slots=True)
class UpstreamRequest:
    """A request in the form in which it is sent to one provider.

    Attributes:
        target: the provider, and the model's id there.
        path: the path, below the provider's base URL, or a whole URL.
        content: the body, as JSON.
        body: the body before it was written in the provider's own form.
        stream: whether the provider is asked for a stream. The client may still get a whole response, made from it.
        show_usage: whether the client asked for the event that contains only usage.
        service_tier: the requested tier; the price depends on it.
        dropped: the names of the fields that were removed.
        applied: the other changes, as in "messages[].role=developer->system".
        headers: the client's headers for the provider; they tell which cache has the beginning of the conversation.
        price: the price that the limits used and the charge must use too; None to look it up.
        prompt_tokens_estimate: an estimate for the record, used if the provider does not count tokens.
        fields: the client's documented fields, on which the form of the response may depend.
        support: how the provider serves the endpoint.
        choices_expected: how many choices must finish before a stream is complete.
        first_byte_timeout_s: how long the target may be silent, in seconds, while others remain; None for
            UPSTREAM_FIRST_BYTE_TIMEOUT.
    """

    target: Target
    path: str
    content: bytes
    body: dict[str, Any]
    stream: bool
    show_usage: bool
    service_tier: str | None
    dropped: list[str]
    prompt_tokens_estimate: int
    fields: InferenceBody
    support: EndpointSupport
    choices_expected: int = 1
    applied: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    price: Price | None = None
    first_byte_timeout_s: float | None = None


def _no_header(name: str) -> str | None:
    return None


def adapt(
    body: dict[str, Any],
    fields: InferenceBody,
    endpoint: Endpoint,
    target: Target,
    get_header: Callable[[str], str | None] = _no_header,
    translated: Translated | None = None,
    max_output_tokens: int | None = None,
    *,
    prefers_stream: bool = False,
) -> UpstreamRequest:
    """Returns the request for a target.

    Args:
        body: the client's body.
        fields: its documented fields, validated.
        endpoint: the endpoint that was called.
        target: the provider and model to send it to.
        get_header: maps a lower-case name to the value of that header of the client's request, or to None.
        translated: the translated request, whose body replaces the client's; or None.
        max_output_tokens: the most output tokens that the key may ask for; None for any number.
        prefers_stream: whether to ask for a stream although the client did not, if the response has one choice.

    Raises:
        BadRequest: a field is out of range or asks for too much output, or the model cannot serve a translated request.
        ConfigurationMissing: the provider's key is not set.
    """
    support, omitted, applied = target.provider.serves[endpoint.name], Omissions(), [*target.applied]
    if translated is not None:
        body = translated.body
        applied += translated.applied
        omitted.add_all(translated.dropped)
    adapted = {**body, "model": target.model, **target.overrides}
    applied += remove_replaced(adapted, target.overrides) if target.overrides else ()
    _raise_if_out_of_range(adapted, support, target.provider.title)
    for name in endpoint.own_fields:
        adapted.pop(name, None)
    if translated is not None:
        applied += fit_to_model(adapted, endpoint, target, omitted)
    if max_output_tokens is not None:
        applied += limit_output(adapted, endpoint, target, max_output_tokens)
    _drop_fields(adapted, support, omitted)
    _rename_fields(adapted, support)
    if endpoint.prepare is not None:
        omitted.add_all(endpoint.prepare(adapted))
    applied += _adapt_messages(adapted, support, omitted)
    headers = _pick_headers(target.provider.affinity_headers, get_header, omitted)
    choices = 1 if endpoint.count_choices is None else endpoint.count_choices(adapted)
    stream, show_usage = fields.stream is True or _must_stream(adapted, endpoint, support), False
    stream = stream or (prefers_stream and choices == 1 and adapted.get("n") in _ONE)
    if stream and endpoint.stream is not None:
        show_usage = endpoint.stream.wants_usage(adapted)
        endpoint.stream.request_stream(adapted)
    if not support.accepts_stream_options and adapted.pop("stream_options", None) and "stream_options" in body:
        omitted.add("stream_options")
    url = support.make_url
    return UpstreamRequest(
        target=target,
        path=support.path if url is None else url(get_client(target.provider).base_url, target.model),
        content=encode(adapted if support.write_request is None else support.write_request(adapted)),
        body=adapted,
        stream=stream,
        show_usage=show_usage,
        service_tier=adapted.get("service_tier"),
        dropped=omitted.get_names(),
        prompt_tokens_estimate=endpoint.estimate_prompt_tokens(adapted),
        fields=fields,
        support=support,
        choices_expected=choices,
        applied=applied,
        headers=headers,
    )


def _raise_if_out_of_range(body: dict[str, Any], support: EndpointSupport, title: str) -> None:
    for name, (least, most) in support.ranges.items():
        value = body.get(name)
        if value is not None and not least <= value <= most:
            bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
            raise make_parameter_error(name, f"be a whole number {bounds} for {title}")


def _drop_fields(body: dict[str, Any], support: EndpointSupport, omitted: Omissions) -> None:
    """Removes fields that clients of OpenAI or Anthropic send but this provider refuses."""
    dropped = [name for name in body if name in support.dropped_fields]
    if not support.accepts_null:
        dropped += [name for name, value in body.items() if value is None and name not in dropped]
    for name, values in support.accepted_values.items():
        if body.get(name) is not None and body[name] not in values:
            dropped.append(name)
    for name in dropped:
        omitted.add(name)
        del body[name]
    for name, names in support.dropped_nested_fields.items():
        value = body.get(name)
        if isinstance(value, dict):
            body[name] = without(value, names, f"{name}.", omitted)
        elif isinstance(value, list):
            body[name] = [
                without(each, names, f"{name}[].", omitted) if isinstance(each, dict) else each for each in value
            ]


def _rename_fields(body: dict[str, Any], support: EndpointSupport) -> None:
    for name, new_name in support.renamed_fields.items():
        if name in body and new_name not in body:
            body[new_name] = body.pop(name)


def _adapt_messages(body: dict[str, Any], support: EndpointSupport, omitted: Omissions) -> list[str]:
    """Fits the messages to the provider's schema and roles, and returns which roles were replaced."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return []
    if support.message_schema is not None:
        messages = fit_to_schema(messages, support.message_schema, "messages", omitted)
    if not support.accepts_null_in_messages:
        messages = [without_nulls(message, "messages[].", omitted) for message in messages]
    applied: list[str] = []
    if not support.accepts_developer_role:
        messages, applied = replace_developer_role(messages, omitted.add)
    body["messages"] = messages
    return applied


def _pick_headers(
    names: Mapping[str, str], get_header: Callable[[str], str | None], omitted: Omissions
) -> dict[str, str]:
    """Returns the client's headers in `names`, under the provider's names; the first of two with one name counts."""
    headers: dict[str, str] = {}
    for name, upstream_name in names.items():
        value = get_header(name)
        if value and len(value) <= _MAX_SENT_HEADER_CHARACTERS and value.isascii() and value.isprintable():
            headers.setdefault(upstream_name, value)
        elif value:
            omitted.add(name)
    return headers


def _must_stream(body: dict[str, Any], endpoint: Endpoint, support: EndpointSupport) -> bool:
    limit = support.max_unstreamed_tokens
    if limit is None or endpoint.stream is None:
        return False
    return (endpoint.get_output_bound(body) or 0) > limit
