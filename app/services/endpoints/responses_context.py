"""The fields of a Responses response around its output: repeated request fields, status, usage, ids."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from app.lenient_json import replace_surrogates
from app.services.endpoints.responses_tools import Tools
from app.services.endpoints.stream_summary import Usage

# Request fields that the response repeats unchanged, and those with OpenAI's own default.
_REPEATED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
)
_DEFAULTS: Mapping[str, Any] = {
    "metadata": {},
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
}

# Chat's finish reasons for a response that was cut off → the reasons here.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseContext:
    """The parts of a request that its response needs.

    Args:
        body: the request.
        tools: its tools.
        wants_logprobs: whether it asked for the log probabilities of the text.

    Attributes:
        model: the model as requested.
    """

    def __init__(self, body: dict[str, Any], tools: Tools, *, wants_logprobs: bool) -> None:
        self.tools = tools
        self.wants_logprobs = wants_logprobs
        self.model: str = body.get("model") or body["models"][0]
        self._fields = {name: body.get(name) for name in _REPEATED}
        self._fields |= {name: default if body.get(name) is None else body[name] for name, default in _DEFAULTS.items()}
        self._fields["text"] = {**_DEFAULTS["text"], **(body.get("text") or {})}
        effort = (body.get("reasoning") or {}).get("effort")
        self._fields |= {
            "reasoning": {"effort": effort, "summary": None},
            "tools": tools.shown,
            "background": False,
            "previous_response_id": None,
            "service_tier": None,
            "store": False,
            "truncation": "disabled",
        }

    def make_response(self, request_id: str, **fields: Any) -> dict[str, Any]:
        """Returns a response with these fields, which include `created_at`, `model`, `output` and `status`."""
        response = {
            "id": f"resp_{to_hex(request_id)}",
            "object": "response",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }
        return {**response, **self._fields, **fields}


def to_hex(request_id: str) -> str:
    """Returns the form of the request id used in the ids of a response."""
    return request_id.replace("-", "")


def find_incomplete_reason(finish_reason: str | None) -> str | None:
    """Returns why a response with this finish reason of chat is incomplete, or None if it is complete."""
    return _INCOMPLETE.get(finish_reason or "")


def make_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Returns a chat usage in this API's form, or None if a number is unknown, because the form requires all of them.

    The input includes the cached tokens, and the output the reasoning, in both APIs.
    """
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def make_status(finish_reason: str | None) -> dict[str, Any]:
    """Returns the fields that tell how a response ended; `finish_reason` is chat's."""
    reason = find_incomplete_reason(finish_reason)
    if reason is None:
        return {"status": "completed", "completed_at": int(time.time())}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def read_model(value: Any) -> str | None:
    """Returns the model that a chat response names, or None."""
    return replace_surrogates(value) if isinstance(value, str) else None


def read_created_s(value: Any) -> int:
    """Returns when a chat response was created, in seconds since 1970; now if it does not say."""
    return value if type(value) is int and value > 0 else int(time.time())
