"""Reduces the requested output to what the model's context has room for.

Agents ask for 32,000 to 128,000 tokens of any model, and providers refuse what does not fit beside the prompt. So an
endpoint whose clients must always name a number (`Endpoint.clamps_output`) has it reduced, and the client is told.
"""

from __future__ import annotations

from typing import Any

from app.services.endpoints import Endpoint
from app.services.inference.routing import Target
from app.services.models import peek_model_list

# The fields of which the greater one counts, as in `Endpoint.get_output_bound`.
_FIELDS = ("max_tokens", "max_completion_tokens")


def clamp_output(body: dict[str, Any], endpoint: Endpoint, target: Target) -> list[str]:
    """Reduces the output limits of a body, in place, to what the target's context has room for.

    A prompt that is estimated to fill the context alone is left to the provider, whose count is the true one.

    Args:
        body: the body for the provider.
        endpoint: the endpoint that was called.
        target: the provider and model; of an unlisted model no bound is known.

    Returns:
        The changes, as in "max_tokens=128000->32768".
    """
    asked = endpoint.get_output_bound(body)
    models = peek_model_list(target.provider)
    model = models.get(target.model) if models is not None else None
    if asked is None or model is None or not model.context_length:
        return []
    room = model.context_length - endpoint.estimate_prompt_tokens(body)
    bound = room if room > 0 else model.context_length
    applied = []
    for name in _FIELDS:
        value = body.get(name)
        if value is not None and value > bound:
            body[name] = bound
            applied.append(f"{name}={value}->{bound}")
    return applied
