"""Requests for choices and whole responses that consist of choices, for chat and completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta

from app.services.endpoints.endpoint import InferenceBody, StreamOptions
from app.services.endpoints.stream_summary import ResponseSummary
from app.services.endpoints.usage import read_usage

# A request asks for at most 128 choices per prompt. A response with many more would only cost time.
MAX_CHOICES = 1_000

# The reason if a provider gives none; a failed chunk of a stream has the same one.
_FAILED = {"message": 'the generation failed with finish_reason "error"'}

# The client's fields for the output limit. If a body has both, only the greater one counts.
OUTPUT_FIELDS = ("max_tokens", "max_completion_tokens")

Choice = dict[str, Any]


class ChoicesBody(InferenceBody, kw_only=True):
    """The documented fields of both. The ranges are Fireworks' and OpenAI's; that of `top_k` differs by provider."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None


def get_output_bound(body: dict[str, Any]) -> int | None:
    """Returns the most output tokens that a request asks for; None if it does not say."""
    return max(body.get("max_tokens") or 0, body.get("max_completion_tokens") or 0) or None


def summarize_choices(
    response: Any, is_choice: Callable[[Any], bool], estimate_output_tokens: Callable[[list[Choice]], int]
) -> ResponseSummary:
    """Returns the summary of a whole response.

    Args:
        response: the response, as JSON values.
        is_choice: whether a value is a choice of this endpoint.
        estimate_output_tokens: choices → an estimate of the tokens in them, for a response without usage.

    Raises:
        ValueError: it is not a response of this endpoint.
    """
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or len(choices) > MAX_CHOICES or not all(is_choice(choice) for choice in choices):
        raise ValueError("not a response with choices")
    failed = next((choice for choice in choices if choice.get("finish_reason") == "error"), None)
    if failed is not None and not failed.get("error"):
        failed = {"error": _FAILED}
    model, reason = response.get("model"), choices[0].get("finish_reason") if choices else None
    usage = read_usage(response.get("usage"))
    return ResponseSummary(
        model if isinstance(model, str) else None,
        reason if isinstance(reason, str) else None,
        usage,
        estimate_output_tokens(choices) if usage is None or usage.completion_tokens is None else None,
        failed,
    )
