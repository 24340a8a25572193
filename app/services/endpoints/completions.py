"""`POST /v1/completions`: OpenAI's older endpoint, which continues a text; all providers serve it natively."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from app.services.endpoints.choices import MAX_CHOICES, summarize_choices
from app.services.endpoints.completion_assembly import (
    CompletionCollector,
    make_completion_events,
    normalise_text_completion,
)
from app.services.endpoints.completion_chunks import observe_completion_chunk
from app.services.endpoints.endpoint import Endpoint, EventKind, InferenceBody, StreamOptions, make_parameter_error
from app.services.endpoints.prompts import CHARACTERS_PER_TOKEN, PROMPT_FORMS, estimate_tokens, read_prompts
from app.services.endpoints.stream_summary import StreamSummary
from app.services.endpoints.token_bounds import bound_completion_tokens


class CompletionBody(InferenceBody, kw_only=True):
    """The documented fields of a request for completions; the ranges are those of chat.

    `max_tokens` may be 0: with `echo` and `logprobs`, the answer is how likely the prompt itself is.
    """

    prompt: Annotated[Any, Meta(extra={"must": PROMPT_FORMS})]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=0)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None

    def __post_init__(self) -> None:
        prompts = read_prompts(self.prompt)
        if prompts is None:
            raise make_parameter_error("prompt", PROMPT_FORMS)
        if len(prompts) * (self.n or 1) > MAX_CHOICES:
            raise make_parameter_error("prompt", f"ask for at most {MAX_CHOICES:,} answers: prompts times `n`")


def _estimate_prompt_tokens(body: dict[str, Any]) -> int:
    return estimate_tokens(read_prompts(body["prompt"]) or ())


def _get_output_bound(body: dict[str, Any]) -> int | None:
    return max(body.get("max_tokens") or 0, body.get("max_completion_tokens") or 0) or None


def _count_choices(body: dict[str, Any]) -> int:
    return len(read_prompts(body["prompt"]) or ()) * (body.get("n") or 1)


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("text"), str | None) and "message" not in choice


def _estimate_output_tokens(choices: list[dict[str, Any]]) -> int:
    return -(-sum(len(choice.get("text") or "") for choice in choices) // CHARACTERS_PER_TOKEN)


class CompletionStreamProtocol:
    """Chunks with a piece of text for one choice or several, `[DONE]` at the end. Several prompts take turns."""

    title = "a stream of completions"
    heartbeat = b": keep-alive\n\n"

    def request_stream(self, body: dict[str, Any]) -> None:
        """Sets `stream`, and `include_usage` beside the client's own stream options."""
        body["stream"] = True
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}

    def wants_usage(self, body: dict[str, Any]) -> bool:
        """Returns whether the client set `include_usage`."""
        return bool((body.get("stream_options") or {}).get("include_usage"))

    def observe(self, data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
        """Records in `summary` what a chunk contains, and returns its kind; see `StreamProtocol.observe`."""
        if data == b"[DONE]":
            return EventKind.DONE
        if data in {b"null", b""}:
            return EventKind.EMPTY
        return observe_completion_chunk(data, summary, now_s)

    def is_complete(self, summary: StreamSummary) -> bool:
        """Returns whether every choice that was asked for has its finish reason, and every other that has begun."""
        return len(summary.finished) >= summary.choices_expected and summary.begun <= summary.finished

    def make_collector(self) -> CompletionCollector:
        """Returns a collector of chunks."""
        return CompletionCollector()

    def make_events(self, response: dict[str, Any]) -> bytes:
        """Returns the chunks of a whole completion, and `[DONE]`."""
        return make_completion_events(response)


COMPLETIONS = Endpoint(
    name="completions",
    path="/v1/completions",
    title="a completion",
    body=CompletionBody,
    estimate_prompt_tokens=_estimate_prompt_tokens,
    get_output_bound=_get_output_bound,
    bound_tokens=bound_completion_tokens,
    output_field="max_tokens",
    count_choices=_count_choices,
    summarize=partial(summarize_choices, is_choice=_is_choice, estimate_output_tokens=_estimate_output_tokens),
    normalise=normalise_text_completion,
    stream=CompletionStreamProtocol(),
)
