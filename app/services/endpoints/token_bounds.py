"""Upper bounds of the tokens that a request can be billed for, by its body; limits reserve them before it is sent.

The bytes of the prompt are its bound: in today's vocabularies a token stands for at least one byte of text, so the JSON
that is sent, which includes every text, name and schema, has at least as many bytes as the prompt has tokens. The
model's template adds a constant. Images and audio have no such bound, and fill at most the context.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from app.services.endpoints.prompts import read_prompts

# The most tokens that chat templates add besides the messages: a system prompt of their own, and instructions for
# calling tools. The additions for a message are shorter than the JSON around it.
_TEMPLATE_TOKENS = 1_024
# Tokens for the beginning and the end, and for the instructions that rerankers put around each document.
_TOKENS_PER_PROMPT = 8
_TOKENS_PER_DOCUMENT = 160

_TEXT_PARTS = frozenset({"text", "refusal", "thinking", "reasoning"})
# Undocumented fields known to some servers that are not texts, or that repeat texts any number of times.
_UNBOUNDED_FIELDS = frozenset({"chat_template", "images", "multi_modal_data", "prompt_embeds", "prompt_template"})


# A chat request without these asks for one output of `max_tokens`, and only parts of contents may lack a bound.
_UNUSUAL_FIELDS = _UNBOUNDED_FIELDS | {"n", "best_of", "max_completion_tokens"}


# Bounds of a request's tokens, in a plain tuple, because each request under limits makes one:
# the most prompt tokens; None without a bound
# the number of generated texts; 0 at an endpoint that generates none
# the most tokens of all of them together; None without a bound
# whether the body states the bound, and not only the model's context
TokenBounds = tuple[int | None, int, int | None, bool]


def bound_chat_tokens(body: dict[str, Any], content_bytes: int, context_length: int | None) -> TokenBounds:
    """Returns the bounds of a chat request.

    Args:
        body: the body for a provider, before it is written in the provider's own form.
        content_bytes: the length of the JSON that is sent.
        context_length: the tokens in the model's context; None if not known.
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
    # A server may classify a part without a type by its other fields.
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in _TEXT_PARTS)


def _count_outputs(body: dict[str, Any]) -> int:
    counts = [body.get(name) for name in ("n", "best_of")]
    return max([1, *(int(count) for count in counts if isinstance(count, int | float) and 1 <= count < 1e6)])


def _add_output(prompt: int | None, outputs: int, body: dict[str, Any], context_length: int | None) -> TokenBounds:
    """Returns the bounds including the outputs. For each output the greater of the body's two limits counts.

    Servers generate a token even if only the prompt's own tokens are requested.
    """
    first, second = body.get("max_tokens"), body.get("max_completion_tokens")
    if first is None and second is None:
        return prompt, outputs, None if context_length is None else outputs * context_length, not outputs
    most = max(1, first or 0, second or 0)
    if context_length is not None and most > context_length:
        most = context_length
    return prompt, outputs, outputs * most, True
