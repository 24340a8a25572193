"""The chat models of the sandbox, of all providers."""

from dataclasses import dataclass
from typing import Literal

# The position of the usage in a stream. finish: always in the finish chunk. separate: in a chunk of its own, if
# requested. finish-if-asked: in the finish chunk, if requested. every: in each chunk, and in one of its own at the end.
UsagePlacement = Literal["finish", "separate", "finish-if-asked", "every"]


@dataclass(frozen=True)
class ChatModel:
    """One model, with the traits that change the form of its completions."""

    id: str
    context_length: int | None = None
    usage: UsagePlacement = "separate"
    reasons: bool = False
    """It reasons unless `reasoning_effort` is none."""
    always_reasons: bool = False
    """`reasoning_effort` none is an error, as for gpt-oss."""
    counts_reasoning: bool = False
    """Its usage has completion_tokens_details.reasoning_tokens."""
    kimi_call_ids: bool = False
    """Tool calls are named `functions.<name>:<index>` instead of `call_<hex>`."""
    text_in_finish: bool = False
    """The finish chunk has the last piece of text instead of an empty delta."""
    chat: bool = True
