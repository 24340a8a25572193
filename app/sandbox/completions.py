"""One chat with its choices: usage, response headers and the JSON of an unstreamed completion."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from app.sandbox.choices import Choice
from app.sandbox.models import ChatModel
from app.sandbox.providers import Provider
from app.sandbox.tokens import count_cached_tokens, count_prompt_tokens
from app.sandbox.web import Headers

_GENERATED_LIMIT = 216_000  # Tokens; as observed with a real account.
# The logprob of every sandbox token. Any constant would do; this one is a probability of one half.
_LOGPROB = -0.6931472
# USD per million tokens, for DeepInfra's `estimated_cost`; a test can recompute it.
_COST_IN, _COST_OUT = 0.27, 1.1


@dataclass
class Chat:
    """A valid request and its choices."""

    provider: Provider
    model: ChatModel
    body: dict[str, Any]
    choices: list[Choice]
    id_hex: str
    created: int = field(default_factory=lambda: int(time.time()))
    scripted_usage: dict[str, int] = field(default_factory=dict)
    """The usage that a script gives, in place of the counted one."""
    prompt_tokens: int = field(init=False)
    cached_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = self.scripted_usage.get("prompt_tokens", count_prompt_tokens(self.body))
        self.cached_tokens = self.scripted_usage.get("cached_tokens", count_cached_tokens(self.body))

    @property
    def sent_tokens(self) -> int:
        """The tokens of all choices together."""
        return sum(choice.tokens for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        """The completion tokens of all choices together, as in the usage."""
        return self.scripted_usage.get("completion_tokens", self.sent_tokens)

    def make_usage(self, completion_tokens: int | None = None) -> dict[str, Any]:
        """Returns the usage object.

        Args:
            completion_tokens: the number sent so far; None for all of them.
        """
        completion = self.completion_tokens if completion_tokens is None else completion_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.model.counts_reasoning or "reasoning_tokens" in self.scripted_usage:
            counted = min(completion, sum(len(choice.reasoning) for choice in self.choices))
            reasoning = self.scripted_usage.get("reasoning_tokens", counted)
            usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        if self.provider.estimates_cost:
            usage["estimated_cost"] = (self.prompt_tokens * _COST_IN + completion * _COST_OUT) / 1e6
        return usage

    def make_perf_metrics(self, first_s: float, total_s: float) -> dict[str, Any]:
        """Returns the `perf_metrics` object from two durations in seconds."""
        return {
            "prompt-tokens": self.prompt_tokens,
            "cached-prompt-tokens": self.cached_tokens,
            "server-time-to-first-token": round(first_s, 3),
            "server-processing-time": round(total_s, 3),
        }


def make_completion(chat: Chat, first_s: float, total_s: float) -> dict[str, Any]:
    """Returns the body of an unstreamed response; parts that a message lacks are absent keys, not nulls."""
    completion = {
        "id": "chatcmpl-" + chat.id_hex,
        "object": "chat.completion",
        "created": chat.created,
        "model": chat.model.id,
        "choices": [_make_choice_entry(chat, choice) for choice in chat.choices],
        "usage": chat.make_usage(),
    }
    if chat.body.get("perf_metrics_in_response"):
        completion["perf_metrics"] = chat.make_perf_metrics(first_s, total_s)
    return completion


def _make_choice_entry(chat: Chat, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    if choice.content is not None:
        message["content"] = "".join(choice.content)
    if choice.reasoning:
        message[chat.provider.reasoning_key] = "".join(choice.reasoning)
    if choice.tool_calls:
        message["tool_calls"] = [_make_call(chat, index, choice) for index in range(len(choice.tool_calls))]
    entry = {"index": choice.index, "message": message, "finish_reason": choice.finish_reason}
    if chat.body.get("logprobs") and chat.provider.gives_logprobs:
        entry["logprobs"] = make_logprobs(chat.body, choice.content or [])
    return entry


def _make_call(chat: Chat, index: int, choice: Choice) -> dict[str, Any]:
    call = choice.tool_calls[index]
    # Tool calls of Kimi models have their index even without streaming; those of other models do not.
    position = {"index": index} if chat.model.kimi_call_ids else {}
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {**position, "id": call.id, "type": "function", "function": function}


def make_logprobs(body: dict[str, Any], tokens: list[str], offset: int = 0) -> dict[str, Any]:
    """Returns the logprobs of some tokens: OpenAI's form for `logprobs: true`, parallel arrays for a number.

    Args:
        body: the request.
        tokens: consecutive tokens of the text.
        offset: the position of the first token in the text, in characters.
    """
    offsets = [offset + len("".join(tokens[:index])) for index in range(len(tokens))]
    if body["logprobs"] is not True:
        return {
            "tokens": tokens,
            "token_logprobs": [_LOGPROB] * len(tokens),
            "top_logprobs": [{token: _LOGPROB} for token in tokens],
            "text_offset": offsets,
            "token_ids": [_make_token_id(token) for token in tokens],
        }
    top = body.get("top_logprobs") or 0
    return {"content": [_make_logprob(token, start, top) for token, start in zip(tokens, offsets, strict=True)]}


def _make_logprob(token: str, offset: int, top: int) -> dict[str, Any]:
    own = {"token": token, "logprob": _LOGPROB, "bytes": list(token.encode("utf-8", "replace"))}
    return {
        **own,
        "sampling_logprob": _LOGPROB,
        "token_id": _make_token_id(token),
        "text_offset": offset,
        "top_logprobs": [own] if top else [],
    }


def _make_token_id(token: str) -> int:
    """Returns a stable number for a token, below 100,000, the usual size of a vocabulary."""
    return sum(index * byte for index, byte in enumerate(token.encode("utf-8", "replace"), 1)) % 100_000


def make_headers(chat: Chat, first_s: float, total_s: float | None, request_id: str) -> Headers:
    """Returns the headers of a 200; for a stream `total_s` is None, because its duration is not yet known."""
    if chat.provider.name != "fireworks":
        return (("x-request-id", request_id), *chat.provider.headers)
    known = [
        ("x-request-id", request_id),
        ("fireworks-prompt-tokens", str(chat.prompt_tokens)),
        ("fireworks-cached-prompt-tokens", str(chat.cached_tokens)),
        ("fireworks-sampling-options", _make_sampling_options(chat.body)),
        ("x-ratelimit-limit-tokens-generated", str(_GENERATED_LIMIT)),
        ("x-ratelimit-remaining-tokens-generated", str(_GENERATED_LIMIT - chat.completion_tokens)),
        ("x-ratelimit-over-limit", "no"),
    ]
    if total_s is not None:
        known += [
            ("fireworks-server-time-to-first-token", f"{first_s:.3f}"),
            ("fireworks-server-processing-time", f"{total_s:.3f}"),
            ("x-envoy-upstream-service-time", str(round(total_s * 1000))),
        ]
    return tuple(known)


def _make_sampling_options(body: dict[str, Any]) -> str:
    defaults = {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "min_p": 0.0}
    given = {name: body[name] for name in defaults if body.get(name) is not None}
    return json.dumps({**defaults, **given}, separators=(",", ":"))
