"""Translates a request to Anthropic's Messages API into a chat request."""

from __future__ import annotations

from typing import Any

import msgspec

from app.services.endpoints.endpoint import make_parameter_error
from app.services.endpoints.messages_blocks import Omit, join_parts, make_parts, read_blocks
from app.services.endpoints.messages_body import CountTokensBody, MessagesBody, MessagesContext
from app.services.endpoints.messages_history import translate_messages
from app.services.endpoints.messages_tools import translate_tool_choice, translate_tools
from app.services.endpoints.roles import hoist_instructions
from app.services.endpoints.token_estimate import estimate_tokens
from app.services.endpoints.translation import Translated

# Fields with the same name and meaning in chat. Anthropic lacks some of them, but its clients may add these.
_SAME = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_tokens",
        "min_p",
        "models",
        "presence_penalty",
        "prompt_cache_key",
        "provider",
        "reasoning_effort",
        "repetition_penalty",
        "seed",
        "stream",
        "temperature",
        "top_k",
        "top_p",
    }
)
# Fields that are read below. All others are dropped and named: chat providers do not know them and refuse unknown
# fields, and clients send new ones with each version.
_READ = frozenset(
    {
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "stop_sequences",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)

# Claude Code's line about itself. It is no instruction, and it may differ in each request, which would defeat caches.
_BILLING_LINE = "x-anthropic-billing-header:"

# Least budget of thinking tokens → the effort, as Fireworks translates it. The highest budget reached counts.
_EFFORTS_BY_BUDGET = ((10_000, "high"), (5_000, "medium"), (0, "low"))
# Chat providers know three levels for all models that reason; the higher ones only for some.
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def translate_request(body: dict[str, Any], fields: CountTokensBody) -> Translated:
    """Returns the chat request.

    Args:
        body: the client's body.
        fields: its documented fields.

    Raises:
        BadRequest: it has a part that chat cannot express.
    """
    dropped: dict[str, None] = {}
    applied: list[str] = []

    def omit(name: str) -> None:
        dropped[name] = None

    for name, value in body.items():
        if name not in _SAME and name not in _READ and value is not None:
            omit(name)
    chat = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat["model"] = fields.model
    functions, tool_names = translate_tools(fields.tools, omit)
    if tool_names:
        applied.append("tools[].name->shortened")
    history = _read_system(fields.system, omit) + translate_messages(fields.messages, omit)
    chat["messages"], moved = hoist_instructions(history, omit)
    applied += moved
    if functions:
        chat["tools"] = functions
    chat |= translate_tool_choice(fields.tool_choice, functions, omit)
    chat |= _translate_thinking(fields, applied, omit)
    chat |= _translate_format(fields)
    chat |= _translate_rest(fields, omit)
    context = MessagesContext(
        fields.model,
        tool_names,
        tuple(chat.get("stop", ())),
        shows_thinking=(fields.thinking or {}).get("type") != "disabled",
        prompt_tokens=estimate_tokens(chat),
    )
    return Translated(chat, list(dropped), applied, context)


def _translate_rest(fields: CountTokensBody, omit: Omit) -> dict[str, Any]:
    """Returns the fields that only a request for a message has."""
    chat: dict[str, Any] = {}
    if isinstance(fields, MessagesBody):
        if fields.stop_sequences:
            chat["stop"] = fields.stop_sequences
        if (session := _read_session(fields.metadata, omit)) is not None:
            chat["user"] = session
    return chat


def _read_system(system: Any, omit: Omit) -> list[dict[str, Any]]:
    """Returns the system message of a request, or none."""
    parts: list[dict[str, Any]] = []
    for path, block in read_blocks(system, "system", omit):
        if block["type"] != "text":
            raise make_parameter_error(f"{path}.type", "be text")
        if str(block.get("text")).startswith(_BILLING_LINE):
            omit("system[].x-anthropic-billing-header")
        else:
            parts += make_parts(block, path, omit)
    return [{"role": "system", "content": join_parts(parts)}] if parts else []


def _translate_thinking(fields: CountTokensBody, applied: list[str], omit: Omit) -> dict[str, Any]:
    """Returns the thinking settings in chat's fields. The effort decides, if there is one."""
    output, thinking = fields.output_config or {}, fields.thinking or {}
    kind = thinking.get("type")
    for name in thinking:
        if name not in ("type", "budget_tokens"):
            omit(f"thinking.{name}")
    for name in output:
        if name not in ("effort", "format"):
            omit(f"output_config.{name}")
    if kind not in (None, "enabled", "disabled", "adaptive"):
        raise make_parameter_error("thinking.type", "be enabled, disabled or adaptive")
    if kind == "disabled":
        return {"reasoning_effort": "none"}
    if output.get("effort") is not None:
        return {"reasoning_effort": _read_effort(output["effort"], applied)}
    return {"reasoning_effort": _read_budget(thinking, applied)} if kind == "enabled" else {}


def _read_effort(effort: Any, applied: list[str]) -> str:
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise make_parameter_error("output_config.effort", f"be one of {', '.join(_EFFORTS)}")
    if _EFFORTS[effort] != effort:
        applied.append(f"output_config.effort={effort}->{_EFFORTS[effort]}")
    return _EFFORTS[effort]


def _read_budget(thinking: dict[str, Any], applied: list[str]) -> str:
    budget = thinking.get("budget_tokens")
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1_024:
        must = "be a whole number of at least 1024"
        raise make_parameter_error("thinking.budget_tokens", must, is_missing=budget is None)
    effort = next(each for least, each in _EFFORTS_BY_BUDGET if budget >= least)
    applied.append(f"thinking.budget_tokens={budget}->reasoning_effort={effort}")
    return effort


def _translate_format(fields: CountTokensBody) -> dict[str, Any]:
    """Returns chat's `response_format` for the required JSON schema of the output, if there is one."""
    output = (fields.output_config or {}).get("format") or fields.output_format
    if output is None:
        return {}
    schema = output.get("schema") if isinstance(output, dict) else None
    if not isinstance(schema, dict) or output.get("type") != "json_schema":
        raise make_parameter_error("output_config.format", "have the type json_schema and a `schema`")
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}}


def _read_session(metadata: dict[str, Any] | None, omit: Omit) -> str | None:
    """Returns the id of the client's session. The rest of `user_id` names a device and an account, so it is left out.

    Claude Code writes JSON with `session_id`, and earlier versions wrote `user_…_account_…_session_…`.
    """
    user_id = (metadata or {}).get("user_id")
    session: Any = None
    if isinstance(user_id, str):
        try:
            read = msgspec.json.decode(user_id)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            read = {"session_id": user_id.rpartition("_session_")[2]} if "_session_" in user_id else None
        session = read.get("session_id") if isinstance(read, dict) else None
    if isinstance(session, str) and 0 < len(session) <= 64:
        return session
    if metadata:
        omit("metadata")
    return None
