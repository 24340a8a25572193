"""The documented fields of Anthropic's requests, and the parts that the translation of responses needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from app.services.endpoints.endpoint import InferenceBody

# Anthropic has no limit, but providers refuse more, and their error would name a field of chat.
_STOPS = "be a list of at most 4 strings"


class CountTokensBody(InferenceBody, kw_only=True):
    """The fields of a request to count tokens. `system`, tools and messages are read by the translation."""

    messages: Annotated[list[Any], Meta(min_length=1, extra={"must": "be a list with at least one message"})]
    system: Any = None
    tools: list[Any] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.model = self.model.removesuffix("[1m]")  # Claude Code's mark for a context of a million tokens.


class MessagesBody(CountTokensBody, kw_only=True):
    """The fields of a request for a message. Temperatures above 1 are not Anthropic's, but open models accept them."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stop_sequences: Annotated[list[str], Meta(max_length=4, extra={"must": _STOPS})] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None


@dataclass(slots=True)
class MessagesContext:
    """The parts of a request that its response needs.

    Attributes:
        model: the requested model, named in the response if the provider names none.
        tool_names: the shortened name of a tool → its own name, for names that were too long.
        stop_sequences: the stop sequences of the request; some providers say which one matched.
        shows_thinking: whether the client gets the model's reasoning.
        prompt_tokens: an estimate, in case the provider does not count.
    """

    model: str
    tool_names: dict[str, str] = field(default_factory=dict)
    stop_sequences: tuple[str, ...] = ()
    shows_thinking: bool = True
    prompt_tokens: int = 0
