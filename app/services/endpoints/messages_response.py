"""Translates a chat completion into a message of Anthropic's API; some parts are shared with its stream."""

from __future__ import annotations

from typing import Any

from app.errors import UpstreamError
from app.lenient_json import decode_leniently, encode
from app.services.endpoints.chat_reading import read_calls, read_text
from app.services.endpoints.messages_body import MessagesContext
from app.services.endpoints.stream_summary import Usage
from app.services.endpoints.tool_names import ToolIds
from app.services.endpoints.usage import read_usage

# Chat's finish reasons for an output that was cut, possibly in a tool call → Anthropic's stop reasons.
_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}


def make_message(completion: dict[str, Any], context: MessagesContext, request_id: str) -> dict[str, Any]:
    """Returns the message of a whole chat completion.

    Args:
        completion: normalised; only its first choice counts, because the request asked for one.
        context: the kept parts of the request.
        request_id: the gateway's id of the request.

    Raises:
        UpstreamError: the arguments of a tool call are not a JSON object, although the output was not cut.
    """
    choice = completion["choices"][0] if completion["choices"] else {"message": {}}
    message, reason = choice["message"], choice.get("finish_reason")
    content: list[dict[str, Any]] = []
    thinking = read_text(message.get("reasoning_content")) or read_text(message.get("reasoning"))
    if thinking and context.shows_thinking:
        content.append({"type": "thinking", "thinking": thinking, "signature": ""})
    if text := read_text(message.get("content")):
        content.append({"type": "text", "text": text})
    calls, is_cut = make_tool_blocks(message, context, ToolIds(request_id), reason)
    content += calls
    model, usage = completion.get("model"), read_usage(completion.get("usage"))
    return {
        "id": make_message_id(request_id),
        "type": "message",
        "role": "assistant",
        "model": model if isinstance(model, str) and model else context.model,
        "content": content,
        **make_stop(reason, bool(calls) and not is_cut, find_stop_sequence(choice, context)),
        "usage": make_usage(usage, context, _estimate_output(content)),
    }


def make_tool_blocks(
    message: dict[str, Any], context: MessagesContext, ids: ToolIds, reason: Any
) -> tuple[list[dict[str, Any]], bool]:
    """Returns the blocks of a message's tool calls, and whether the last call was cut; a call that was cut is left out.

    Args:
        message: a chat message.
        context: the kept parts of the request.
        ids: makes the ids of the calls.
        reason: the finish reason in chat. If the output was cut, a last call without arguments was cut before them.

    Raises:
        UpstreamError: the arguments of a call are not a JSON object, although the output was not cut.
    """
    blocks: list[dict[str, Any]] = []
    calls = read_calls(message)
    for position, call in enumerate(calls, 1):
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name, written = function.get("name"), function.get("arguments")
        arguments = _read_arguments(written)
        may_be_cut = position == len(calls) and isinstance(reason, str) and reason in _STOP_REASONS
        if may_be_cut and (not name or arguments is None or _is_blank(written)):
            return blocks, True
        if not isinstance(name, str) or not name:
            continue  # A call without a name cannot be executed.
        if arguments is None:
            raise _make_arguments_error(name)
        shown = context.tool_names.get(name, name)
        blocks.append({"type": "tool_use", "id": ids.make_id(call.get("id")), "name": shown, "input": arguments})
    return blocks, False


def _is_blank(arguments: Any) -> bool:
    return arguments is None or (isinstance(arguments, str) and not arguments.strip())


def make_message_id(request_id: str) -> str:
    """Returns the id of the message that responds to a request."""
    return "msg_" + request_id.replace("-", "")


def _read_arguments(value: Any) -> dict[str, Any] | None:
    """Returns the arguments of a call; None if they are not an object. Some models write them as JSON within JSON."""
    for _ in range(2):
        if not isinstance(value, str):
            break
        try:
            value = decode_leniently(value.encode(errors="surrogatepass")) if value.strip() else {}
        except ValueError:
            return None
    return {} if value is None else value if isinstance(value, dict) else None


def _make_arguments_error(name: str) -> UpstreamError:
    """Returns the error for a call of the tool `name` whose arguments cannot be read."""
    return UpstreamError(
        f"The model called the tool {name[:200]!r} with arguments that are not a JSON object. Send the request again, "
        "or simplify the tool's schema.",
    )


def make_stop(reason: Any, has_tool: bool, stop_sequence: str | None) -> dict[str, str | None]:
    """Returns the fields that tell why the model stopped.

    Args:
        reason: the finish reason in chat.
        has_tool: whether the client got a tool call. This decides, because clients discard a turn that stops for a tool
            without one, and some models report "stop" after a call.
        stop_sequence: the sequence that matched, if the provider names it.
    """
    if has_tool:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if stop_sequence is not None and reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_sequence}
    return {"stop_reason": _STOP_REASONS.get(reason, "end_turn"), "stop_sequence": None}


def find_stop_sequence(choice: dict[str, Any], context: MessagesContext) -> str | None:
    """Returns the sequence that ended a choice: vLLM has it in `stop_reason`, SGLang in `matched_stop`."""
    for name in ("stop_reason", "matched_stop"):
        if isinstance(choice.get(name), str) and choice[name] in context.stop_sequences:
            return str(choice[name])
    return None


def make_usage(usage: Usage | None, context: MessagesContext, output_tokens: int) -> dict[str, int]:
    """Returns a usage in Anthropic's terms, where `input_tokens` excludes cached tokens.

    Clients cannot read a usage without numbers, and decide by them when to compact a conversation. So numbers that the
    provider does not state are the same estimates as on the record.

    Args:
        usage: the provider's, or None.
        context: has an estimate of the prompt.
        output_tokens: an estimate of the output.
    """
    usage = usage or Usage()
    prompt = context.prompt_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    cached = usage.cached_tokens or 0
    return {
        "input_tokens": max(prompt - cached, 0),
        "output_tokens": output_tokens if usage.completion_tokens is None else usage.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


def _estimate_output(content: list[dict[str, Any]]) -> int:
    return -(-len(encode(content)) // 4) if content else 0
