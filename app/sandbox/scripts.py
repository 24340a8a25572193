"""Scripts: model answers dictated by the prompt, for developing programs that parse answers.

A script is JSON after the word `@sandbox`, anywhere in a user message: one turn, or a list of the turns of an agent. It
is part of the prompt because gateways and frameworks pass prompts on unchanged, but few headers and no unknown fields;
it is found in the middle of a text because agents and templates write around a prompt; and the word needs no quotes or
fences, which shells and Markdown would change. docs/sandbox.md describes it for users.
"""

import json
import re
from dataclasses import dataclass, field
from json.decoder import py_scanstring  # type: ignore[attr-defined]
from typing import Any

from app.sandbox.tokens import get_text, split_tokens

# A user name or an address that contains the word is not a script.
_MARK = re.compile(r"(?<![\w.@/-])@sandbox(?![\w.@/-])\s*:?\s*")
SCRIPT_HEADER = "x-sandbox-script"
_FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")
FIELDS = ("text", "json", "reasoning", "tool_calls", "finish_reason", "usage", "when")
_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_QUOTED_CHARS = 40


class ScriptError(Exception):
    """A script is malformed; the text describes the mistake."""


@dataclass(frozen=True)
class ScriptedCall:
    """A tool call: `arguments` are the pieces of the JSON text, `id` is None if the sandbox generates one."""

    name: str
    arguments: list[str]
    id: str | None = None


@dataclass(frozen=True)
class Turn:
    """One answer of the model, in pieces, each of which is one event of a stream."""

    text: list[str] | None = None
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[ScriptedCall] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    when: str | None = None


def find_turn(body: dict[str, Any], header: str) -> Turn | None:
    """Returns the turn of the script that a chat request dictates, or None for the sandbox's own answer.

    The script of the header `x-sandbox-script` covers the whole conversation; without one, the last user message with a
    script counts, from there on. The answer is the last turn whose `when` occurs in a later text (or beside the
    script); without such a turn, the n-th turn without `when` after n - 1 answers. A turn that calls tools is only for
    requests that offer some.

    Args:
        body: a valid request.
        header: the value of the header, "" if there is none.

    Raises:
        ScriptError: the script is malformed.
    """
    found = _find_script(body["messages"], header)
    if found is None:
        return None
    turns, rest = found
    answers = sum(message.get("role") == "assistant" for message in rest)
    texts = [get_text(message) for message in rest if message.get("role") != "assistant"]
    met = [turn for turn in turns if turn.when is not None and any(turn.when in text for text in texts)]
    usual = [turn for turn in turns if turn.when is None]
    turn = met[-1] if met else usual[answers] if answers < len(usual) else None
    offers_tools = bool(body.get("tools")) and body.get("tool_choice") != "none"
    return None if turn and turn.tool_calls and not offers_tools else turn


def _find_script(messages: list[dict[str, Any]], header: str) -> tuple[list[Turn], list[dict[str, Any]]] | None:
    """Returns the turns, and the messages that they answer; the text of the script itself is removed from these."""
    if header:
        # Headers are read as latin-1.
        script, end = _read(header.encode("latin-1", "replace").decode("utf-8", "replace"), 0)
        return _parse_turns(script), messages
    for position in reversed(range(len(messages))):
        if messages[position].get("role") == "user":
            text = get_text(messages[position])
            mark = _MARK.search(text)
            if mark:
                script, end = _read(text, mark.end())
                around = {"role": "user", "content": text[: mark.start()] + text[end:]}
                return _parse_turns(script), [around, *messages[position + 1 :]]
    return None


def _read(text: str, start: int) -> tuple[Any, int]:
    """Returns the JSON value at a position, and the position of its end."""
    try:
        return _decoder.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        escaped = _read_escaped(text, start)
        if escaped is not None:
            return escaped
        at = error.pos if isinstance(error, json.JSONDecodeError) else start
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        near = text[at : at + _QUOTED_CHARS]
        place = f"near: {near}" if near else "at its end"
        raise ScriptError(
            f'after @sandbox, JSON has to follow, such as @sandbox {{"text": "Hello"}}; {what}, at character'
            f" {at - start + 1} of the script, {place}"
        ) from None


def _read_escaped(text: str, start: int) -> tuple[Any, int] | None:
    r"""Reads a script within a JSON string, as of a framework that puts the user's words into JSON: `{\"text\": …`."""
    if not re.match(r'(?:[\[{]|\\n|\s)*\\"', text[start:][:100]):
        return None
    try:
        inner, end = py_scanstring(text + '"', start)
        return _decoder.raw_decode(inner)[0], end - 1
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def _parse_turns(script: Any) -> list[Turn]:
    if isinstance(script, dict) and script.keys() == {"turns"}:
        script = script["turns"]
    if isinstance(script, dict):
        return [_parse_turn(script, "the script")]
    if not isinstance(script, list) or not script:
        raise ScriptError("a script is a turn, {…}, or a list of at least one turn, [{…}, {…}]")
    return [_parse_turn(turn, f"turn {number}") for number, turn in enumerate(script, 1)]


def _parse_turn(turn: Any, where: str) -> Turn:
    _raise_if_malformed(turn, FIELDS, where)
    if "text" in turn and "json" in turn:
        raise ScriptError(f"{where} has text and json; leave one of them out")
    if not turn.keys() & {"text", "json", "reasoning", "tool_calls", "finish_reason"}:
        raise ScriptError(f"{where} says nothing; give it text, json, reasoning or tool_calls")
    if "when" in turn and not (isinstance(turn["when"], str) and turn["when"]):
        raise ScriptError(f"when in {where} has to be a string that occurs in the conversation")
    if turn.get("finish_reason", "stop") not in _FINISH_REASONS:
        raise ScriptError(f"finish_reason in {where} has to be one of {', '.join(_FINISH_REASONS)}")
    calls = turn.get("tool_calls", [])
    if not isinstance(calls, list):
        raise ScriptError(f'tool_calls in {where} has to be a list, [{{"name": "…", "arguments": {{…}}}}]')
    text = _split(json.dumps(turn["json"], ensure_ascii=False), where) if "json" in turn else None
    return Turn(
        text=_split(turn["text"], f"text in {where}") if "text" in turn else text,
        reasoning=_split(turn.get("reasoning", ""), f"reasoning in {where}"),
        tool_calls=[_parse_call(call, f"call {number} in {where}") for number, call in enumerate(calls, 1)],
        finish_reason=turn.get("finish_reason"),
        usage=_parse_usage(turn.get("usage", {}), f"usage in {where}"),
        when=turn.get("when"),
    )


def _raise_if_malformed(value: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict):
        raise ScriptError(f"{where} has to be an object with any of {', '.join(known)}")
    unknown = [name for name in value if name not in known]
    if unknown:
        raise ScriptError(f"{where} has an unknown field, {unknown[0]!r}; the fields are {', '.join(known)}")


def _split(text: Any, where: str) -> list[str]:
    """Returns the pieces of a text: its tokens, or the pieces that the script itself gives."""
    if isinstance(text, str):
        return split_tokens(text)
    if isinstance(text, list) and all(isinstance(piece, str) for piece in text):
        return text
    raise ScriptError(f"{where} has to be a string, or a list of strings, each of which becomes one event")


def _parse_call(call: Any, where: str) -> ScriptedCall:
    _raise_if_malformed(call, ("name", "arguments", "id"), where)
    name, call_id, arguments = call.get("name"), call.get("id"), call.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise ScriptError(f"{where} needs a name, that of the tool")
    if call_id is not None and not isinstance(call_id, str):
        raise ScriptError(f"id of {where} has to be a string")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    elif not isinstance(arguments, str | list):
        raise ScriptError(f"arguments of {where} have to be an object, or a string that is sent as it is")
    return ScriptedCall(name, _split(arguments, f"arguments of {where}"), call_id)


def _parse_usage(usage: dict[str, int], where: str) -> dict[str, int]:
    _raise_if_malformed(usage, _COUNTS, where)
    for name, count in usage.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
            raise ScriptError(f"{name} of {where} has to be a whole number from 0 on")
    return usage
