"""Fireworks' validation of a chat request: unknown fields are errors at every level, and ranges are checked.

Message texts follow the real ones: `Extra inputs are not permitted, field: 'tools[0].cache_control'`.
"""

from collections.abc import Iterator
from typing import Any

from app.sandbox.models import ChatModel
from app.sandbox.rules import (
    Rule,
    any_value,
    boolean,
    either,
    integer,
    list_of,
    mapping,
    number,
    one_of,
    string,
)
from app.sandbox.tokens import count_prompt_tokens

EXTRA = "Extra inputs are not permitted"
_LEVELS = ("none", "low", "medium", "high", "xhigh", "max", "adaptive")

_FIELDS: dict[str, Rule] = {
    "model": string,
    "messages": any_value,
    "tools": any_value,
    "tool_choice": either(one_of("auto", "none", "required", "any"), mapping),
    "parallel_tool_calls": boolean,
    "functions": any_value,
    "function_call": any_value,
    "stream": boolean,
    "stream_options": mapping,
    "max_tokens": integer(1),
    "max_completion_tokens": integer(1),
    "context_length_exceeded_behavior": one_of("truncate", "error"),
    "prompt_truncate_len": integer(0),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "top_k": integer(0, 100),
    "min_p": number(0, 1),
    "typical_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0, 2),
    "mirostat_target": number(0, float("inf")),
    "mirostat_lr": number(0, float("inf")),
    "seed": integer(-(2**63)),
    "n": integer(1, 128),
    "stop": either(string, list_of(string, at_most=4)),
    "logit_bias": mapping,
    "ignore_eos": boolean,
    "logprobs": either(boolean, integer(-(2**63))),
    "top_logprobs": integer(-(2**63)),
    "echo": boolean,
    "echo_last": integer(0),
    "return_token_ids": boolean,
    "raw_output": boolean,
    "response_format": mapping,
    "reasoning_effort": either(one_of(*_LEVELS), boolean, integer(1)),
    "reasoning_history": one_of("disabled", "interleaved", "preserved"),
    "thinking": mapping,
    "prediction": either(string, mapping),
    "speculation": any_value,
    "user": string,
    "prompt_cache_key": string,
    "prompt_cache_isolation_key": string,
    "service_tier": one_of("auto", "default", "flex", "priority"),
    "metadata": mapping,
    "perf_metrics_in_response": boolean,
    "safe_tokenization": boolean,
}
# Chat fields that completions lack: those of messages and tools, and `stream_options`.
_OF_CHAT = {"messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "stream_options"}
_COMPLETION_FIELDS = (set(_FIELDS) - _OF_CHAT) | {"prompt", "images"}
_OWN_FORMS = {"prompt", "images", "max_tokens"}  # Checked elsewhere; `max_tokens` may be 0.
_MESSAGE = {"role", "content", "reasoning_content", "tool_calls", "tool_call_id"}
_PARTS = {
    "text": {"type", "text"},
    "image_url": {"type", "image_url"},
    "video_url": {"type", "video_url"},
    "audio_url": {"type", "audio_url"},
}
_MEDIA = {
    "image_url": {"url", "detail"},
    "video_url": {"url", "detail", "max_frames", "sample_fps", "spatial_limit"},
    "audio_url": {"url"},
}
_CALL = {"id", "type", "function", "index"}
_FUNCTION = {"name", "description", "parameters", "strict"}
_FORMATS = ("text", "grammar", "json_schema", "json_object")
_FORMAT = {"type", "json_schema", "schema", "grammar"}
_STREAM_OPTIONS = {"include_usage", "buffer_tokens", "buffer_ms", "buffer_mode"}
_ROLES = one_of("system", "user", "assistant", "tool")
_LOGPROBS = integer(0, 5)


def find_problems(body: dict[str, Any], model: ChatModel) -> list[str]:
    """Returns the problems that Fireworks' model server would report; [] for a valid request."""
    problems = [
        *_find_extra(body, set(_FIELDS), ""),
        *_check_fields(body),
        *_check_together(body, model),
        *_check_messages(body.get("messages")),
        *_check_tools(body.get("tools")),
        *_check_format(body.get("response_format")),
        *_find_extra(body.get("stream_options"), _STREAM_OPTIONS, "stream_options."),
    ]
    return problems or list(_check_length(body, model))


def find_completion_problems(body: dict[str, Any], model: ChatModel, prompt_tokens: int) -> list[str]:
    """Returns the problems that Fireworks' model server would report for a request for completions."""
    problems = [
        *_find_extra(body, _COMPLETION_FIELDS, ""),
        *_check_fields({name: value for name, value in body.items() if name in _COMPLETION_FIELDS - _OWN_FORMS}),
        *_check_together(body, model),
        *_check_format(body.get("response_format")),
    ]
    limit = body.get("max_tokens")
    if isinstance(limit, bool) or not isinstance(limit, int | None) or (limit or 0) < 0:
        problems.append(f"Input should be greater than or equal to 0, field: 'max_tokens', value: {limit!r}")
    return problems or list(_check_prompt_tokens(prompt_tokens, model))


def make_message(problems: list[str]) -> str:
    """Joins problems into one error message, as Fireworks does."""
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} request validation errors: {'; '.join(problems)}"


def _find_extra(value: Any, allowed: set[str], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    for name in value:
        if name in allowed:
            continue
        shown = f", value: {value[name]}" if isinstance(value[name], bool | int | float) else ""
        yield f"{EXTRA}, field: '{path}{name}'{shown}"


def _check_fields(body: dict[str, Any]) -> Iterator[str]:
    for name, rule in _FIELDS.items():
        problem = rule(body.get(name))
        if name in body and body[name] is not None and problem:
            yield f"{problem}, field: '{name}', value: {body[name]!r}"


def _check_together(body: dict[str, Any], model: ChatModel) -> Iterator[str]:
    """Yields the problems that depend on more than one field or on the model."""
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        yield "max_tokens and max_completion_tokens cannot be set at the same time"
    if body.get("thinking") is not None and body.get("reasoning_effort") is not None:
        yield "thinking and reasoning_effort cannot be set at the same time"
    if model.always_reasons and body.get("reasoning_effort") in ("none", False):
        yield f"Invalid reasoning effort: {body['reasoning_effort']}"
    for name in ("logprobs", "top_logprobs"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and _LOGPROBS(value):
            yield f"logprobs must be between 0 and 5: {value}"


def _check_messages(messages: Any) -> Iterator[str]:
    if messages is None:
        yield "Field required, field: 'messages'"
    elif not isinstance(messages, list) or not messages:
        yield "Input should be a non-empty list, field: 'messages'"
    else:
        for position, message in enumerate(messages):
            yield from _check_message(message, f"messages[{position}]")


def _check_message(message: Any, path: str) -> Iterator[str]:
    if not isinstance(message, dict):
        yield f"Input should be a valid dictionary, field: '{path}'"
        return
    yield from _find_extra(message, _MESSAGE, path + ".")
    problem = _ROLES(message.get("role", ""))
    if problem:
        yield f"{problem}, field: '{path}.role'"
    content = message.get("content")
    if isinstance(content, list):
        for position, part in enumerate(content):
            yield from _check_part(part, f"{path}.content[{position}]")
    elif string(content):
        yield f"Input should be a valid string or list, field: '{path}.content'"
    calls = message.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        yield from _find_extra(call, _CALL, f"{path}.tool_calls[{position}].")


def _check_part(part: Any, path: str) -> Iterator[str]:
    kind = str(part.get("type")) if isinstance(part, dict) else ""
    if kind not in _PARTS:
        yield f"Input should be 'text', 'image_url', 'video_url' or 'audio_url', field: '{path}.type'"
        return
    yield from _find_extra(part, _PARTS[kind], path + ".")
    yield from _find_extra(part.get(kind), _MEDIA.get(kind, set()), f"{path}.{kind}.")


def _check_tools(tools: Any) -> Iterator[str]:
    if tools is None:
        return
    if not isinstance(tools, list):
        yield "Input should be a valid list, field: 'tools'"
        return
    for position, tool in enumerate(tools):
        path = f"tools[{position}]"
        yield from _find_extra(tool, {"type", "function"}, path + ".")
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            yield f"Field required, field: '{path}.function.name'"
        yield from _find_extra(function, _FUNCTION, path + ".function.")


def _check_format(form: Any) -> Iterator[str]:
    if not isinstance(form, dict):
        return
    if form.get("type") not in _FORMATS:
        yield f"Invalid format type: {form.get('type')}. Must be one of: {', '.join(_FORMATS)}"
    yield from _find_extra(form, _FORMAT, "response_format.")


def _check_length(body: dict[str, Any], model: ChatModel) -> Iterator[str]:
    return _check_prompt_tokens(count_prompt_tokens(body), model)


def _check_prompt_tokens(tokens: int, model: ChatModel) -> Iterator[str]:
    if model.context_length is not None and tokens > model.context_length:
        yield f"The prompt is too long: {tokens}, model maximum context length: {model.context_length}"
