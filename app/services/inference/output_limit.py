"""Applies an operator's limit on the output tokens that a key's requests may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import BadRequest
from app.services.endpoints import OUTPUT_FIELDS, Endpoint
from app.services.models import peek_model_list
from app.services.routing import Target


def remove_replaced(body: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """Removes from a body, in place, the caller's other field for the output limit if an alias sets one of the two.

    Otherwise the greater one would count, or the one that the provider prefers.

    Returns:
        The replacements, as in "max_completion_tokens->max_tokens".
    """
    replaced = []
    for name, other in (OUTPUT_FIELDS, OUTPUT_FIELDS[::-1]):
        if name in overrides and other not in overrides and body.pop(other, None) is not None:
            replaced.append(f"{other}->{name}")
    return replaced


def limit_output(body: dict[str, Any], endpoint: Endpoint, target: Target, most: int) -> list[str]:
    """Lowers the output limit of a body to `most`, in place; a body without a limit gets this one.

    Args:
        body: the body for the provider, in the form of the endpoint that serves it.
        endpoint: the endpoint that was called.
        target: the provider and model.
        most: the greatest number that the key may ask for, per output if there are several.

    Returns:
        The changes, as in "max_tokens=64000->4096" or "max_tokens=4096".

    Raises:
        BadRequest: the body asks for more, at an endpoint whose clients choose the number themselves.
    """
    if endpoint.output_field is None:
        return []
    applied = []
    is_asked = False
    for name in OUTPUT_FIELDS:
        value = body.get(name)
        if value is None:
            continue
        is_asked = True
        if value > most:
            if not endpoint.clamps_output:
                raise _make_error(name if endpoint.translation is None else endpoint.output_field, value, most)
            body[name] = most
            applied.append(f"{name}={value}->{most}")
    if not is_asked:
        body["max_tokens"] = value = _fit(body, endpoint, target, most)
        applied.append(f"{endpoint.output_field}={value}")
    return applied


def _fit(body: dict[str, Any], endpoint: Endpoint, target: Target, most: int) -> int:
    """Returns `most`, or the room that the prompt leaves in the model's context: providers refuse more than that."""
    models = peek_model_list(target.provider)
    model = models.get(target.model) if models is not None else None
    if model is None or not model.context_length:
        return most
    room = model.context_length - endpoint.estimate_prompt_tokens(body)
    return min(most, room) if room > 0 else most


def _make_error(name: str, value: int, most: int) -> BadRequest:
    return BadRequest(
        f"`{name}` is {value}, and this key may ask for at most {most} output tokens. Send at most {most}, or ask the "
        "operator for a higher limit.",
        param=name,
        code="max_output_tokens_exceeded",
    )
