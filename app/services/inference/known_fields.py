"""Finds fields of a request that its target does not know, by the list of models and the provider's reference."""

from __future__ import annotations

from app.services.inference.adaptation import UpstreamRequest
from app.services.models import peek_model_list

# Fields that only some models know and that providers' lists of parameters name.
_LISTED_FIELDS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "min_p",
        "n",
        "presence_penalty",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)


def find_unknown(request: UpstreamRequest) -> list[str]:
    """Returns the fields that the target does not know: those that were removed, and those that are not among the
    listed parameters of the model."""
    models = peek_model_list(request.target.provider)
    model = None if models is None else models.get(request.target.model)
    known = None if model is None else model.supported_parameters
    if not known:
        return request.dropped
    unlisted = [name for name, value in request.body.items() if value is not None and name in _LISTED_FIELDS]
    return [*request.dropped, *(name for name in unlisted if name not in known)]
