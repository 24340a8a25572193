"""The tokenizer of the sandbox.

A token is a run of at most 16 letters and digits, or of at most 16 other characters, together with the white space
before it. So `Hello, world!` has four tokens: `Hello` `,` ` world` `!`. One token is one event of a stream. Real models
count differently; this rule can be checked by hand.
"""

import json
import re
from typing import Any

# With 16, every ordinary word stays whole, and a base64 blob does not become one giant event.
_TOKEN = re.compile(r"\s*(?:\w{1,16}|[^\w\s]{1,16})|\s+")
# An image costs a few hundred tokens on real vision models; a round binary number is easy to spot.
TOKENS_PER_IMAGE = 256


def split_tokens(text: str) -> list[str]:
    """Returns the tokens of a text; joined, they are the text."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """Returns the number of tokens in a text."""
    return sum(1 for _ in _TOKEN.finditer(text))


def count_prompt_tokens(body: dict[str, Any]) -> int:
    """Returns the prompt tokens of a chat request: the text of all messages, 256 for each image, the tools as JSON."""
    total = sum(_count_message_tokens(message) for message in body["messages"])
    if body.get("tools"):
        total += count_tokens(json.dumps(body["tools"]))
    return total


def count_cached_tokens(body: dict[str, Any]) -> int:
    """Returns the number of prompt tokens reported as cached: those of the system messages at the start.

    A real cache has none the first time; here the same request always gives the same number.
    """
    total = 0
    for message in body["messages"]:
        if message.get("role") != "system":
            break
        total += _count_message_tokens(message)
    return total


def _count_message_tokens(message: dict[str, Any]) -> int:
    calls = message.get("tool_calls")
    return (
        count_tokens(get_text(message))
        + TOKENS_PER_IMAGE * count_images(message)
        + (count_tokens(json.dumps(calls)) if calls else 0)
    )


def get_text(message: dict[str, Any]) -> str:
    """Returns the text of a message: its content string, or its text parts joined by line breaks."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "\n".join(str(part.get("text", "")) for part in parts)
    return content if isinstance(content, str) else ""


def count_images(message: dict[str, Any]) -> int:
    """Returns the number of image parts in a message."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return sum(1 for part in parts if isinstance(part, dict) and part.get("type") == "image_url")
