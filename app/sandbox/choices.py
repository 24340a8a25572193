"""The choices of a completion: text, reasoning, tool calls and JSON, derived from the request by fixed rules.

The same request always gives the same text. A script in the prompt can dictate it (`scripts`), and a prompt that asks
for `N words` gets N tokens, so that clients can be tested with long responses.
"""

import json
import re
import uuid
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any

from app.sandbox.models import ChatModel
from app.sandbox.samples import make_sample
from app.sandbox.scripts import Turn
from app.sandbox.tokens import count_images, count_tokens, get_text, split_tokens

_QUOTED_CHARS = 200  # Enough to recognise a prompt; the response to a long one stays readable.
_MAX_TOKENS = 100_000  # Bounds the response if the number in a prompt is a typing error.
_ASKED_LENGTH = re.compile(r"\b(\d{1,6}) (?:words|tokens)\b")
_FILLER = ("these", "words", "come", "from", "a", "sandbox", "and", "mean", "nothing", "at", "all")
_THOUGHT = "The user wrote {count} tokens. I am a sandbox, so a template will do."
_REPEATS = {"low": 1, "medium": 2, "high": 3, "xhigh": 4, "max": 5}


@dataclass
class ToolCall:
    """One call of a tool; `arguments` is JSON text cut into tokens."""

    id: str
    name: str
    arguments: list[str]


@dataclass
class Choice:
    """One choice, cut into tokens; `content` is None if the message has no such key."""

    index: int
    finish_reason: str
    reasoning: list[str] = field(default_factory=list)
    content: list[str] | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """The number of its completion tokens, including reasoning and arguments."""
        calls = sum(len(call.arguments) for call in self.tool_calls)
        return len(self.reasoning) + len(self.content or ()) + calls


def make_choices(model: ChatModel, body: dict[str, Any], turn: Turn | None = None) -> list[Choice]:
    """Returns the `n` choices for a valid request; if a script dictates an answer, all of them are that answer.

    Raises:
        UnsupportedSchema: no value can be made for a schema of the request.
    """
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or _MAX_TOKENS
    indexes = range(body.get("n") or 1)
    if turn:
        return [_cut(_make_scripted_choice(model, body, index, turn), limit) for index in indexes]
    return [_cut(_make_choice(model, body, index), limit) for index in indexes]


def _make_choice(model: ChatModel, body: dict[str, Any], index: int) -> Choice:
    reasoning = split_tokens(_make_reasoning(model, body))
    if _should_call_tools(body):
        calls = _make_tool_calls(model, body)
        return Choice(index, "tool_calls", reasoning, None, calls)
    text = _stop_at(_make_text(body, index), body.get("stop"))
    return Choice(index, "stop", reasoning, split_tokens(text))


def _make_scripted_choice(model: ChatModel, body: dict[str, Any], index: int, turn: Turn) -> Choice:
    calls = [
        ToolCall(call.id or _make_call_id(model, position, call.name), call.name, call.arguments)
        for position, call in enumerate(turn.tool_calls)
    ]
    content = None if turn.text is None else _stop_pieces_at(turn.text, body.get("stop"))
    finish_reason = turn.finish_reason or ("tool_calls" if calls else "stop")
    return Choice(index, finish_reason, turn.reasoning, content, calls)


def _stop_pieces_at(pieces: list[str], stop: str | list[str] | None) -> list[str]:
    text = "".join(pieces)
    left = len(_stop_at(text, stop))
    if left == len(text):
        return pieces
    kept = []
    for piece in pieces:
        if left > 0:
            kept.append(piece[:left])
            left -= len(piece)
    return kept


def _should_call_tools(body: dict[str, Any]) -> bool:
    asked_by_user = body["messages"][-1].get("role") == "user"
    return bool(body.get("tools")) and body.get("tool_choice") != "none" and asked_by_user


def _make_tool_calls(model: ChatModel, body: dict[str, Any]) -> list[ToolCall]:
    """Returns a call of the forced or first tool; with `parallel_tool_calls: true` of the first two (or one twice)."""
    functions = [tool["function"] for tool in body["tools"]]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        inner = choice.get("function")
        name = inner.get("name") if isinstance(inner, dict) else choice.get("name")
        functions = [function for function in functions if function["name"] == name] or functions
    count = 2 if body.get("parallel_tool_calls") is True else 1
    word = _get_last_word(_get_prompt(body))
    return [
        _make_call(model, position, function, word) for position, function in enumerate(islice(cycle(functions), count))
    ]


def _make_call(model: ChatModel, position: int, function: dict[str, Any], word: str) -> ToolCall:
    name = str(function["name"])
    schema = function.get("parameters") or {"type": "object"}
    arguments = json.dumps(make_sample(schema, word, required_only=True), separators=(",", ":"))
    return ToolCall(_make_call_id(model, position, name), name, split_tokens(arguments))


def _make_call_id(model: ChatModel, position: int, name: str) -> str:
    return f"functions.{name}:{position}" if model.kimi_call_ids else "call_" + uuid.uuid4().hex[:24]


def _get_prompt(body: dict[str, Any]) -> str:
    """Returns the text of the last user message, or of the last message if no user wrote one."""
    messages = body["messages"]
    by_user = [message for message in messages if message.get("role") == "user"]
    return get_text((by_user or messages)[-1])


def _get_last_word(prompt: str) -> str:
    words = re.findall(r"\w+", prompt)
    return words[-1] if words else "sandbox"


def _make_reasoning(model: ChatModel, body: dict[str, Any]) -> str:
    """Returns the reasoning; `reasoning_effort` decides its length, and a number is a hard limit in tokens."""
    effort = body.get("reasoning_effort")
    thinking = (body.get("thinking") or {}).get("type")
    if effort in ("none", False) or thinking == "disabled":
        return ""
    if not model.reasons and effort is None and thinking is None:
        return ""
    thought = _THOUGHT.format(count=count_tokens(_get_prompt(body)))
    if effort is True:
        effort = "medium"
    if isinstance(effort, int):
        return "".join(islice(split_tokens(thought), effort))
    return " ".join([thought] * _REPEATS.get(str(effort), 1))


def _make_text(body: dict[str, Any], index: int) -> str:
    prompt = _get_prompt(body)
    form = body.get("response_format") or {}
    if form.get("type") in ("json_object", "json_schema"):
        return _make_json_text(form, prompt)
    asked = _ASKED_LENGTH.search(prompt)
    if asked:
        return _make_long_text(min(int(asked[1]), _MAX_TOKENS))
    last = body["messages"][-1]
    if last.get("role") == "tool":
        text = f'[sandbox] The tool answered: "{_quote(get_text(last))}".'
    else:
        text = f'[sandbox] Hello! No model runs here; this is a made-up answer. You wrote: "{_quote(prompt)}"'
    images = sum(count_images(message) for message in body["messages"])
    text += f" You sent {images} image{'s' if images > 1 else ''}." if images else ""
    choices = body.get("n") or 1
    return text + (f" (answer {index + 1} of {choices})" if choices > 1 else "")


def _quote(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARS else text[:_QUOTED_CHARS] + "…"


def _make_json_text(form: dict[str, Any], prompt: str) -> str:
    schema = form.get("schema")
    if form["type"] == "json_schema":
        wrapped = form.get("json_schema")
        schema = wrapped.get("schema") if isinstance(wrapped, dict) else wrapped
    if not schema:
        return json.dumps({"sandbox": True, "prompt": _quote(prompt)}, ensure_ascii=False)
    return json.dumps(make_sample(schema, _get_last_word(prompt), required_only=False), ensure_ascii=False)


def _make_long_text(tokens: int) -> str:
    lead = split_tokens("[sandbox]")
    words = (" " + word for word in cycle(_FILLER))
    return "".join(islice((piece for part in (lead, words) for piece in part), tokens))


def _stop_at(text: str, stop: str | list[str] | None) -> str:
    """Returns the text up to the first stop string in it."""
    stops = [stop] if isinstance(stop, str) else stop or []
    ends = [text.find(one) for one in stops if one and one in text]
    return text[: min(ends)] if ends else text


def _cut(choice: Choice, limit: int) -> Choice:
    """Shortens a choice to `limit` tokens: the reasoning comes first, then the text, then the calls.

    A call without any token left is omitted, since a model that has run out begins no further call.
    """
    if choice.tokens <= limit:
        return choice
    choice.finish_reason = "length"
    choice.reasoning = choice.reasoning[:limit]
    left = limit - len(choice.reasoning)
    if choice.content is not None:
        choice.content = choice.content[:left] or None
        left -= len(choice.content or ())
    calls = []
    for call in choice.tool_calls:
        if left > 0:
            calls.append(replace(call, arguments=call.arguments[:left]))
            left -= len(call.arguments)
    choice.tool_calls = calls
    return choice
