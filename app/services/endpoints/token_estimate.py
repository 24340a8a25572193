"""Estimates the tokens of a chat request, including tools and images, for use when no provider counts them."""

from __future__ import annotations

from typing import Any

from app.lenient_json import encode

# English text and code have 3.5 to 4 bytes per token in today's vocabularies, Chinese about 3.5.
_BYTES_PER_TOKEN = 3.7
# The tokens for the role of a message and its separators.
_TOKENS_PER_MESSAGE = 4
# Models count 300 to 3,000, depending on the size, which is not examined.
_TOKENS_PER_IMAGE = 1_000


def estimate_tokens(body: dict[str, Any]) -> int:
    """Returns an estimate of the prompt tokens of a chat request."""
    count, images = 0, 0
    for message in body["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ({"text": content},):
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                count += _count_bytes(text)
            elif isinstance(part, dict) and "image_url" in part:
                images += 1
        reasoning = message.get("reasoning_content")
        count += _count_bytes(reasoning) if isinstance(reasoning, str) else 0
        count += sum(len(encode(call.get("function"))) for call in message.get("tool_calls") or ())
    if body.get("tools"):
        count += len(encode(body["tools"]))
    return int(count / _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE * len(body["messages"]) + _TOKENS_PER_IMAGE * images


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
