"""A chat request, checked: which provider and model it is for, and what is sent there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from app.errors import BadRequest
from app.services.inference.admission import become_stream
from app.services.inference.parameters import check_parameters, fit_to_provider, parse_body, stream_options_for
from app.services.inference.routing import resolve_model
from app.services.journal.record import Activity
from app.services.models import peek_model_list
from app.services.providers import Provider, get_client, get_provider

_encode = msgspec.json.Encoder().encode

# English text has about four characters to a token in today's vocabularies, other languages fewer. A message costs
# a few tokens more for its role and separators. OpenAI's cookbook counts both so.
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


@dataclass(slots=True)
class ChatRequest:
    """A checked request.

    Attributes:
        provider: who serves it.
        model: the model's id at the provider.
        body: what is sent upstream.
        stream: whether the client wants Server-Sent Events.
        stream_upstream: whether the provider is asked for them.
        show_usage: whether the client asked for the usage event.
        dropped: names of the parameters that were left out.
        prompt_tokens_estimate: for the record, should the provider not say.
    """

    provider: Provider
    model: str
    body: bytes
    stream: bool
    stream_upstream: bool
    show_usage: bool
    service_tier: str | None
    dropped: list[str]
    prompt_tokens_estimate: int


def read_chat_request(content: bytes, activity: Activity) -> ChatRequest:
    """Turns a body into a checked request, noting on the record what it asks for.

    Raises:
        BadRequest: the body is not valid.
        NotFound: no provider serves the model.
        ConfigurationMissing: the provider that was asked for has no key.
    """
    body = parse_body(content)
    row = activity.row
    if body.get("stream") is True:
        row.stream = True
        become_stream()
    provider_name, asked_model = _text(body, "provider"), _text(body, "model", required=True)
    row.model_requested = asked_model[:500]
    if provider_name:
        row.gateway = get_provider(provider_name).name
        get_client(get_provider(provider_name))  # Refuses a provider that is off before its catalog is asked.
    resolved = resolve_model(asked_model, provider_name or None)
    provider, model = resolved.provider, resolved.model_id
    row.gateway = provider.name
    model_list = peek_model_list(provider)
    if model_list is not None and model_list.get(model) is not None:
        row.model_served = model  # A name that only the caller vouches for waits until the provider has answered.
    check_parameters(body, provider)
    body.pop("provider", None)
    body["model"] = model
    dropped = fit_to_provider(body, provider)
    stream = row.stream
    stream_upstream = stream or _must_stream(body, provider)
    show_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    if stream_upstream:
        body["stream"], body["stream_options"] = True, stream_options_for(body)
    return ChatRequest(
        provider=provider,
        model=model,
        body=_encode(body),
        stream=stream,
        stream_upstream=stream_upstream,
        show_usage=show_usage,
        service_tier=body.get("service_tier"),
        dropped=dropped,
        prompt_tokens_estimate=_estimate_prompt_tokens(body),
    )


def _estimate_prompt_tokens(body: dict[str, Any]) -> int:
    """Returns about how many tokens the texts of a request's messages are; images and sound are not counted."""
    characters = 0
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            texts = (part.get("text") for part in content if isinstance(part, dict))
            characters += sum(len(text) for text in texts if isinstance(text, str))
    return -(-characters // _CHARACTERS_PER_TOKEN) + _TOKENS_PER_MESSAGE * len(body["messages"])


def _text(body: dict[str, Any], name: str, *, required: bool = False) -> str:
    value = body.get(name)
    if value is None and not required:
        return ""
    # Model names reach a few hundred characters with a deployment behind them; nothing longer is one.
    if not isinstance(value, str) or not value or len(value) > 500 or not value.isprintable():
        raise BadRequest(
            f"`{name}` must be a text of 1 to 500 printable characters.", param=name, code="invalid_parameter"
        )
    return value


def _must_stream(body: dict[str, Any], provider: Provider) -> bool:
    limit = provider.serves["chat"].max_unstreamed_tokens
    asked = max(body.get("max_tokens") or 0, body.get("max_completion_tokens") or 0)
    return limit is not None and asked > limit
