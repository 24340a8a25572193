"""The sandbox's tokenizer: the rule by which it cuts texts into tokens and counts them.

A token is a run of at most 16 letters and digits, or of at most 16 other signs, together with the white
space before it. So `Hello, world!` has four tokens: `Hello` `,` ` world` `!`. One token is one event of a
stream. No real model counts like this; what matters is that the rule can be checked by hand.
"""

import json
import re
from typing import Any

# 16 keeps a base64 blob from becoming one giant event while every ordinary word stays whole.
_TOKEN = re.compile(r"\s*(?:\w{1,16}|[^\w\s]{1,16})|\s+")
# An image costs a few hundred tokens on real vision models; a round binary number is easy to spot.
TOKENS_PER_IMAGE = 256


def split_tokens(text: str) -> list[str]:
    """Cut a text into tokens that give the text back when joined."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """Count the tokens of a text."""
    return sum(1 for _ in _TOKEN.finditer(text))


def count_prompt_tokens(body: dict[str, Any]) -> int:
    """Count a chat request's prompt: every message's text, 256 for each image, and the tools as JSON."""
    total = sum(_count_message_tokens(message) for message in body["messages"])
    if body.get("tools"):
        total += count_tokens(json.dumps(body["tools"]))
    return total


def count_cached_tokens(body: dict[str, Any]) -> int:
    """Count the prompt tokens reported as cached: those of the system messages that open the chat.

    A real cache answers 0 the first time; here the same request always gives the same number.
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
    """Return a message's text: its content string, or its text parts joined by a line break."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "\n".join(str(part.get("text", "")) for part in parts)
    return content if isinstance(content, str) else ""


def count_images(message: dict[str, Any]) -> int:
    """Count a message's image parts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return sum(1 for part in parts if isinstance(part, dict) and part.get("type") == "image_url")
