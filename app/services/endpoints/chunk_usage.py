"""The usage in the chunks of a stream: reads it with the chunk, and keeps the last one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from app.services.endpoints.stream_summary import StreamSummary, Usage
from app.services.endpoints.usage import COST_FIELD, MAX_PLAUSIBLE_TOKENS, MAX_PLAUSIBLE_USD, merge_usages

_Count = Annotated[int, Meta(ge=0, le=MAX_PLAUSIBLE_TOKENS)] | None
_Usd = Annotated[float, Meta(ge=0, le=MAX_PLAUSIBLE_USD)] | None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count = None


class ChunkUsage(msgspec.Struct, gc=False):
    """`usage` in chunks, of chat or completions; other forms are read by `read_usage`."""

    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    cost_usd: _Usd = msgspec.field(default=None, name=COST_FIELD)

    def flatten(self) -> Usage:
        """Returns the same numbers without nesting."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            None if prompt is None else prompt.cached_tokens,
            None if completion is None else completion.reasoning_tokens,
            self.cost_usd,
        )


def record_usage(usage: Usage | None, summary: StreamSummary) -> None:
    """Keeps the last usage: Chutes sends a running total with each chunk. Numbers missing in one are kept from the one
    before.
    """
    if usage is None:
        return
    is_whole = usage.prompt_tokens is not None and usage.completion_tokens is not None
    summary.usage = usage if is_whole else merge_usages(summary.usage, usage)
