"""The forms of text in requests: `prompt` of completions, `input` of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# English text has about four characters per token in today's vocabularies, other languages have fewer, by the estimate
# in OpenAI's cookbook.
CHARACTERS_PER_TOKEN = 4

PROMPT_FORMS = "be a string, a list of strings, a list of token ids, or a list of such lists; none of them empty"


def read_prompts(value: Any) -> Sequence[str | list[int]] | None:
    """Returns the single prompts in one of the four forms, each a text or its token ids; None for other values."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        return None
    kinds = set(map(type, value))  # A body may have millions of ids, so they are checked without a loop in Python.
    if kinds == {str}:
        return value
    if kinds == {int}:
        return [value]
    if kinds == {list} and all(set(map(type, ids)) == {int} for ids in value):
        return value
    return None


def are_token_ids(prompts: Sequence[str | list[int]]) -> bool:
    """Returns whether prompts, as `read_prompts` returns them, are ids of tokens and not texts."""
    return not isinstance(prompts[0], str)


def estimate_tokens(prompts: Sequence[str | list[int]]) -> int:
    """Returns an estimate of the tokens in some prompts; ids are counted."""
    return sum(-(-len(each) // CHARACTERS_PER_TOKEN) if isinstance(each, str) else len(each) for each in prompts)
