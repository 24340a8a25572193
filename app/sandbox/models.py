"""What the sandbox knows of a model when it answers a chat, whatever provider lists it."""

from dataclasses import dataclass
from typing import Literal

# Where a stream carries its usage: in the finish chunk always; in a chunk of its own when asked; in the
# finish chunk when asked; in a chunk of its own always, with every chunk carrying the count so far.
UsagePlacement = Literal["finish", "separate", "finish-if-asked", "every"]


@dataclass(frozen=True)
class ChatModel:
    """One model that can be asked, with the traits that change the shape of its answers."""

    id: str
    context_length: int | None = None
    usage: UsagePlacement = "separate"
    reasons: bool = False
    """It thinks before it answers unless `reasoning_effort` is none."""
    always_reasons: bool = False
    """`reasoning_effort` none is an error, as for gpt-oss."""
    counts_reasoning: bool = False
    """Its usage has completion_tokens_details.reasoning_tokens."""
    kimi_call_ids: bool = False
    """Tool calls are named `functions.<name>:<index>` instead of `call_<hex>`."""
    text_in_finish: bool = False
    """The finish chunk carries the last piece of text instead of an empty delta."""
    chat: bool = True
