"""Reduces a translated request to what its model can do, because clients of its API ask any model for the same.

Agents ask for 32,000 to 128,000 output tokens and switch thinking on and off, whatever the model. Providers refuse
requests that a model cannot serve, so these fields are changed here, and the changes are named.
"""

from __future__ import annotations

import math
from typing import Any

from app.errors import BadRequest
from app.services.endpoints import OUTPUT_FIELDS, Endpoint
from app.services.inference.omission import Omissions
from app.services.models import Model, peek_model_list
from app.services.routing import Target

# Families of open models that always think; a request to switch thinking off is refused.
_ALWAYS_THINKING = ("gpt-oss", "minimax-m2")


def fit_to_model(body: dict[str, Any], endpoint: Endpoint, target: Target, omitted: Omissions) -> list[str]:
    """Adapts a translated body, in place, to the abilities of the target's model.

    Args:
        body: the body for the provider.
        endpoint: the endpoint that was called.
        target: the provider and model; of an unlisted model little is known.
        omitted: gets the names of the removed fields.

    Returns:
        The changes, as in "max_tokens=128000->32768".

    Raises:
        BadRequest: the request has images, and the model cannot read images.
    """
    if body.get("reasoning_effort") == "none" and any(name in target.model.lower() for name in _ALWAYS_THINKING):
        del body["reasoning_effort"]
        omitted.add("reasoning_effort")
    models = peek_model_list(target.provider)
    model = models.get(target.model) if models is not None else None
    if model is None:
        return []
    if model.capabilities.vision is False and _has_images(body):
        raise BadRequest(
            f"{target.model} does not accept images. Choose a model that does, or leave the images out.",
            param="messages",
            code="unsupported_content",
        )
    return _clamp_output(body, endpoint, model) if endpoint.clamps_output else []


def _has_images(body: dict[str, Any]) -> bool:
    contents = (message.get("content") for message in body["messages"])
    return any(part.get("type") == "image_url" for parts in contents if isinstance(parts, list) for part in parts)


def _clamp_output(body: dict[str, Any], endpoint: Endpoint, model: Model) -> list[str]:
    """Reduces the output limits to the model's maximum and to the room that the prompt leaves in its context.

    A prompt that seems to fill the context alone is left to the provider, whose token count is the exact one.
    """
    bound = model.max_output_tokens or math.inf
    if endpoint.get_output_bound(body) is not None and model.context_length:
        room = model.context_length - endpoint.estimate_prompt_tokens(body)
        bound = min(bound, room if room > 0 else model.context_length)
    applied = []
    for name in OUTPUT_FIELDS:
        value = body.get(name)
        if value is not None and value > bound:
            body[name] = bound
            applied.append(f"{name}={value}->{bound}")
    return applied
