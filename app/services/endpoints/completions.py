"""`POST /v1/completions`: OpenAI's older endpoint, which continues a text; all providers serve it natively."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from app.services.endpoints.choices import MAX_CHOICES, ChoicesBody, get_output_bound, summarize_choices
from app.services.endpoints.chunk_stream import ChunkStreamProtocol
from app.services.endpoints.completion_assembly import (
    CompletionCollector,
    make_completion_events,
    normalise_text_completion,
)
from app.services.endpoints.completion_chunks import COMPLETION_STEPS, note_completion_chunk, observe_completion_chunk
from app.services.endpoints.endpoint import Endpoint, make_parameter_error
from app.services.endpoints.prompts import CHARACTERS_PER_TOKEN, PROMPT_FORMS, estimate_tokens, read_prompts
from app.services.endpoints.token_bounds import bound_completion_tokens


class CompletionBody(ChoicesBody, kw_only=True):
    """The documented fields of a request for completions.

    `max_tokens` may be 0: with `echo` and `logprobs`, the answer is how likely the prompt itself is.
    """

    prompt: Annotated[Any, Meta(extra={"must": PROMPT_FORMS})]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=0)] | None = None
    echo: bool | None = None

    def __post_init__(self) -> None:
        prompts = read_prompts(self.prompt)
        if prompts is None:
            raise make_parameter_error("prompt", PROMPT_FORMS, is_missing=self.prompt is None)
        if len(prompts) * (self.n or 1) > MAX_CHOICES:
            raise make_parameter_error("prompt", f"ask for at most {MAX_CHOICES:,} answers: prompts times `n`")


def _estimate_prompt_tokens(body: dict[str, Any]) -> int:
    return estimate_tokens(read_prompts(body["prompt"]) or ())


def _count_choices(body: dict[str, Any]) -> int:
    return len(read_prompts(body["prompt"]) or ()) * (body.get("n") or 1)


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("text"), str | None) and "message" not in choice


def _estimate_output_tokens(choices: list[dict[str, Any]]) -> int:
    return -(-sum(len(choice.get("text") or "") for choice in choices) // CHARACTERS_PER_TOKEN)


COMPLETIONS = Endpoint(
    name="completions",
    path="/v1/completions",
    title="a completion",
    body=CompletionBody,
    estimate_prompt_tokens=_estimate_prompt_tokens,
    get_output_bound=get_output_bound,
    bound_tokens=bound_completion_tokens,
    output_field="max_tokens",
    count_choices=_count_choices,
    summarize=partial(summarize_choices, is_choice=_is_choice, estimate_output_tokens=_estimate_output_tokens),
    normalise=normalise_text_completion,
    stream=ChunkStreamProtocol(
        "a stream of completions",
        observe_completion_chunk,
        note_completion_chunk,
        COMPLETION_STEPS,
        CompletionCollector,
        make_completion_events,
    ),
)
