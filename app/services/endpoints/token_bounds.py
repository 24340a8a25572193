"""The most tokens that a request can be billed for, as far as its body tells; limits reserve them before it is sent.

The prompt is bounded by its bytes: a token of today's vocabularies stands for at least one byte of a text, so the JSON
that is sent, in which every text, name and schema stands, has at least as many bytes as the prompt has tokens. The
model's template adds a constant. Pictures and sounds have no such bound, and fill the context at most.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from app.services.endpoints.prompts import read_prompts

# What templates of chat add at most beside the messages: a system prompt of their own, and how to call tools. That of
# each message is shorter than the JSON around it.
_TEMPLATE_TOKENS = 1_024
# Marks of the beginning and the end, and the instructions that rerankers put around each document.
_TOKENS_PER_PROMPT = 8
_TOKENS_PER_DOCUMENT = 160

_TEXT_PARTS = frozenset({"text", "refusal", "thinking", "reasoning"})
# Fields that some servers know besides the documented ones, and that are no texts or repeat texts at will.
_UNBOUNDED_FIELDS = frozenset({"chat_template", "images", "multi_modal_data", "prompt_embeds", "prompt_template"})


# A chat request without these asks for one output of `max_tokens`, and parts of contents alone may lack a bound.
_UNUSUAL_FIELDS = _UNBOUNDED_FIELDS | {"n", "best_of", "max_completion_tokens"}


# What bounds the tokens of a request, in a plain tuple, because each request under limits makes one:
#   the most prompt tokens; None if nothing bounds them
#   how many texts are generated; 0 at an endpoint that generates none
#   the most tokens of all of them together; None if nothing bounds them
#   whether the body says so, and not only the model's context
TokenBounds = tuple[int | None, int, int | None, bool]


def bound_chat_tokens(body: dict[str, Any], content_bytes: int, context_length: int | None) -> TokenBounds:
    """Returns the bounds of a chat request.

    Args:
        body: the body for a provider, before it is written in the provider's own form.
        content_bytes: the length of the JSON that is sent.
        context_length: how many tokens the model's context has; None if that is not known.
    """
    most = body.get("max_tokens")
    if most and context_length is not None and 0 < most <= context_length and _UNUSUAL_FIELDS.isdisjoint(body):
        for message in body["messages"]:
            if isinstance(message.get("content"), list):
                break
        else:  # Almost always.
            prompt = content_bytes + _TEMPLATE_TOKENS
            return prompt if prompt < context_length else context_length, 1, most, True
    contents = []
    for message in body["messages"]:
        if isinstance(content := message.get("content"), list):
            contents.append(content)
    bound: int | None = content_bytes + _TEMPLATE_TOKENS
    if not _UNBOUNDED_FIELDS.isdisjoint(body) or contents:
        is_text = _has_bounded_fields(body) and all(map(_is_text_part, chain.from_iterable(contents)))
        bound = bound if is_text else None
    return _add_output(_at_most(bound, context_length), _count_outputs(body), body, context_length)


def bound_completion_tokens(body: dict[str, Any], content_bytes: int, context_length: int | None) -> TokenBounds:
    """Returns the bounds of a request for completions, which may have several prompts; see `bound_chat_tokens`."""
    prompts = len(read_prompts(body["prompt"]) or ())
    prompt = content_bytes + prompts * _TOKENS_PER_PROMPT if _has_bounded_fields(body) else None
    most = None if context_length is None else prompts * context_length
    return _add_output(_at_most(prompt, most), prompts * _count_outputs(body), body, context_length)


def bound_embedding_tokens(body: dict[str, Any], content_bytes: int, context_length: int | None) -> TokenBounds:
    """Returns the bounds of a request for embeddings; see `bound_chat_tokens`."""
    inputs = len(read_prompts(body["input"]) or (body["input"] if isinstance(body["input"], list) else [""]))
    prompt = content_bytes + inputs * _TOKENS_PER_PROMPT if _has_bounded_fields(body) else None
    most = None if context_length is None else inputs * context_length
    return _at_most(prompt, most), 0, 0, True


def bound_rerank_tokens(body: dict[str, Any], content_bytes: int, context_length: int | None) -> TokenBounds:
    """Returns the bounds of a request to rerank: the model reads the query with each document."""
    documents = len(body["documents"])
    repeated = sum(
        len(value.encode(errors="surrogatepass"))
        for name, value in body.items()
        if isinstance(value, str) and name != "model"
    )
    prompt = content_bytes + documents * (repeated + _TOKENS_PER_DOCUMENT)
    most = None if context_length is None else documents * context_length
    return _at_most(prompt, most), 0, 0, True


def _at_most(tokens: int | None, most: int | None) -> int | None:
    return min(tokens, most) if tokens is not None and most is not None else most if tokens is None else tokens


def _has_bounded_fields(body: dict[str, Any]) -> bool:
    return _UNBOUNDED_FIELDS.isdisjoint(body) or not any(body.get(name) for name in _UNBOUNDED_FIELDS)


def _is_text_part(part: Any) -> bool:
    # A server may take a part without a type for what its other fields say.
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in _TEXT_PARTS)


def _count_outputs(body: dict[str, Any]) -> int:
    counts = [body.get(name) for name in ("n", "best_of")]
    return max([1, *(int(count) for count in counts if isinstance(count, int | float) and 1 <= count < 1e6)])


def _add_output(prompt: int | None, outputs: int, body: dict[str, Any], context_length: int | None) -> TokenBounds:
    """Returns the bounds with that of the outputs, for each of which the greater of the body's two limits counts.

    Servers generate a token where only the prompt's own are asked for.
    """
    first, second = body.get("max_tokens"), body.get("max_completion_tokens")
    if first is None and second is None:
        return prompt, outputs, None if context_length is None else outputs * context_length, not outputs
    most = max(1, first or 0, second or 0)
    if context_length is not None and most > context_length:
        most = context_length
    return prompt, outputs, outputs * most, True
