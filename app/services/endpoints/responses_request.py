"""Requests of the Responses API: their documented fields, and their translation to chat requests."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.errors import BadRequest
from app.services.endpoints.endpoint import InferenceBody, make_parameter_error
from app.services.endpoints.responses_context import ResponseContext
from app.services.endpoints.responses_items import Conversation
from app.services.endpoints.responses_tools import Tools
from app.services.endpoints.roles import hoist_instructions
from app.services.endpoints.translation import Translated

# Fields that refer to data stored at OpenAI, with what to do instead.
_STORED = {
    "previous_response_id": "Send the whole conversation in `input`, as SDKs and agents do without `store`.",
    "conversation": "Send the whole conversation in `input`.",
    "prompt": "Send the text of the prompt in `instructions` or `input`.",
}

# Fields without a counterpart in chat that do not change the text: they are left out, and named.
_LEFT_OUT = ("client_metadata", "context_management", "include", "max_tool_calls", "service_tier", "stream_options")

# Names in this API → names in chat.
_CHAT_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "functions": "tools",
}

# All fields that are read below; other fields are the provider's own, and pass.
_READ = frozenset(
    {
        *_STORED,
        *_LEFT_OUT,
        "background",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "parallel_tool_calls",
        "reasoning",
        "store",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
    }
)

# OpenAI's levels, and `max`, which some open models have.
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_INCLUDED_LOGPROBS = "message.output_text.logprobs"
# Reasoning is always sent in the clear, so there is nothing to encrypt.
_WITHOUT_EFFECT = frozenset({"reasoning.encrypted_content"})


class ReasoningOptions(msgspec.Struct):
    """The field of `reasoning` that chat has too."""

    effort: str | None = None


class TextOptions(msgspec.Struct):
    """The field of `text` that chat has too."""

    format: dict[str, Any] | None = None


class ResponsesBody(InferenceBody, kw_only=True):
    """The documented fields of a request. The ranges are OpenAI's, except that 1 is enough for the output."""

    input: Annotated[str | list[Any], Meta(extra={"must": "be a string or a list of items"})]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    include: list[Any] | None = None
    metadata: dict[str, str] | None = None
    truncation: str | None = None
    store: bool | None = None
    background: bool | None = None

    def __post_init__(self) -> None:
        if not self.input:
            raise make_parameter_error("input", "be a string or a list of items, and not be empty")


def translate_request(body: dict[str, Any], fields: ResponsesBody) -> Translated:
    """Returns the chat request for a Responses request.

    Args:
        body: the client's body.
        fields: its documented fields.

    Raises:
        BadRequest: the request needs data stored at OpenAI, or has a part without a counterpart in chat.
    """
    _raise_if_stored(body, fields)
    tools = Tools()
    tools.add(fields.tools or [], "tools")
    conversation = Conversation(tools)
    messages, applied = _translate_input(fields, conversation)
    chat = {name: value for name, value in body.items() if name not in _READ}
    chat["messages"] = messages
    dropped = [
        *_find_left_out(body, fields),
        *conversation.dropped,
        *(f"tools[].type={kind}" for kind in tools.left_out),
    ]
    wants_logprobs = bool(fields.top_logprobs) or _INCLUDED_LOGPROBS in (fields.include or ())
    if fields.max_output_tokens is not None:
        chat["max_tokens"] = fields.max_output_tokens
    if wants_logprobs:
        chat.update(logprobs=True, top_logprobs=fields.top_logprobs or 0)
    _add_tools(chat, body, fields, tools)
    _add_format(chat, fields)
    applied += _add_effort(chat, fields)
    return Translated(chat, dropped, applied, ResponseContext(body, tools, wants_logprobs=wants_logprobs))


def _raise_if_stored(body: dict[str, Any], fields: ResponsesBody) -> None:
    for name, advice in _STORED.items():
        if body.get(name) is not None:
            code = "previous_response_not_found" if name == "previous_response_id" else "unsupported_parameter"
            raise BadRequest(
                f"`{name}` refers to something that the gateway does not keep: it stores no responses. {advice}",
                param=name,
                code=code,
            )
    if fields.background:
        raise BadRequest(
            "`background` must be false or absent: the gateway stores no responses to fetch later. Use `stream`.",
            param="background",
            code="unsupported_parameter",
        )
    for name, own in _CHAT_NAMES.items():
        if body.get(name) is not None:
            raise BadRequest(
                f"`{name}` is a field of /v1/chat/completions; here it is called `{own}`.",
                param=name,
                code="invalid_parameter",
            )
    if body.get("n") not in (None, 1):
        raise make_parameter_error("n", "be absent, because a response has one output")


def _translate_input(fields: ResponsesBody, conversation: Conversation) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the messages with all leading instructions in one system message, and the changes made for that."""
    if isinstance(fields.input, str):
        conversation.add_message("user", fields.input)
    else:
        for position, item in enumerate(fields.input):
            conversation.add_item(item, f"input[{position}]")
    messages = conversation.make_messages()
    if not messages:
        raise make_parameter_error("input", "contain a message")
    if fields.instructions:
        messages.insert(0, {"role": "system", "content": fields.instructions})
    messages, applied = hoist_instructions(messages, lambda name: None)
    return messages, [name.replace("messages[]", "input[]") for name in applied]


def _find_left_out(body: dict[str, Any], fields: ResponsesBody) -> list[str]:
    """Returns the names of the request's fields that are not passed on."""
    found = [name for name in _LEFT_OUT if body.get(name)]
    if set(map(str, fields.include or ())) <= {*_WITHOUT_EFFECT, _INCLUDED_LOGPROBS}:
        found = [name for name in found if name != "include"]
    if fields.store:
        found.append("store")
    if fields.truncation not in (None, "disabled"):
        found.append("truncation")
    for name, kept in (("text", "format"), ("reasoning", "effort")):
        value = body.get(name)
        if isinstance(value, dict):
            found += [f"{name}.{inner}" for inner in value if inner != kept and value[inner] is not None]
    return found


def _add_tools(chat: dict[str, Any], body: dict[str, Any], fields: ResponsesBody, tools: Tools) -> None:
    if tools.left_out and not tools.functions:
        raise BadRequest(
            f"No tool of this request is available here: {', '.join(dict.fromkeys(tools.left_out))[:200]}. The gateway "
            "passes on the types function, custom and namespace; leave `tools` out if the model needs none.",
            param="tools",
            code="unsupported_tool",
        )
    functions, choice = tools.functions, body.get("tool_choice")
    if choice is not None:
        choice, functions = tools.make_choice(choice)
    if not functions:
        return  # Providers refuse the other two fields without tools.
    chat["tools"] = functions
    if choice is not None:
        chat["tool_choice"] = choice
    if fields.parallel_tool_calls is not None:
        chat["parallel_tool_calls"] = fields.parallel_tool_calls


def _add_format(chat: dict[str, Any], fields: ResponsesBody) -> None:
    form = fields.text.format if fields.text is not None else None
    kind = form.get("type") if form is not None else None
    if form is None or kind == "text":
        return
    if kind == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif kind == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        if not isinstance(schema.get("schema"), dict):
            is_missing = "schema" not in schema
            raise make_parameter_error("text.format.schema", "be a JSON schema", is_missing=is_missing)
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
        must = "be text, json_object or json_schema"
        raise make_parameter_error("text.format.type", must, is_missing=kind is None)


def _add_effort(chat: dict[str, Any], fields: ResponsesBody) -> list[str]:
    """Adds the reasoning effort, and returns changes to it. No provider has OpenAI's level `minimal`."""
    effort = fields.reasoning.effort if fields.reasoning is not None else None
    if effort is None:
        return []
    if effort not in _EFFORTS:
        raise make_parameter_error("reasoning.effort", f"be one of {', '.join(_EFFORTS)}")
    chat["reasoning_effort"] = "low" if effort == "minimal" else effort
    return ["reasoning.effort=minimal->low"] if effort == "minimal" else []
