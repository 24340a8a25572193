"""Tools of the Responses API as functions of a chat request, and calls of these functions as calls of the tools.

A custom tool, whose input is free text, becomes a function with one string. The tools of a namespace become functions
with the namespace in their names. Tools that OpenAI's servers run are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from app.errors import BadRequest
from app.services.endpoints.endpoint import make_parameter_error
from app.services.endpoints.tool_names import add_hash, shorten_name

# Characters that providers refuse in the name of a function.
_REFUSED_CHARACTERS = re.compile(r"[^a-zA-Z0-9_-]")

# Separates a namespace from the name of its tool, as in MCP clients.
_SEPARATOR = "__"

_CHOICES = frozenset({"auto", "none", "required"})

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}

_INPUT_SCHEMA = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class Tool(msgspec.Struct, frozen=True):
    """A tool that the model can call.

    Attributes:
        name: its name.
        namespace: the name of its namespace; None without one.
        is_custom: whether its input is free text.
    """

    name: str
    namespace: str | None = None
    is_custom: bool = False


class Tools:
    """The tools of one request.

    Attributes:
        shown: the tools in the form of the request, except those that were left out.
        functions: the same as functions of a chat request, in the same order.
        left_out: the types of the tools that only OpenAI's servers run.
    """

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.functions: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self._by_function: dict[str, Tool] = {}
        self._by_name: dict[tuple[str | None, str], str] = {}

    def add(self, tools: list[Any], path: str) -> None:
        """Adds a list of tools; `path` is its path in the request, for error messages.

        Raises:
            BadRequest: a tool has no name or a duplicate one, or is not an object.
        """
        for position, tool in enumerate(tools):
            place = f"{path}[{position}]"
            kind = tool.get("type") if isinstance(tool, dict) else None
            if not isinstance(kind, str):
                raise make_parameter_error(place, "be an object with a `type`")
            if kind in {"function", "custom"}:
                self._add_one(tool, kind, None, place)
            elif kind == "namespace":
                self._add_namespace(tool, place)
            else:
                self.left_out.append(kind)
                continue
            self.shown.append(tool)

    def _add_namespace(self, tool: dict[str, Any], place: str) -> None:
        name, nested = _get_name(tool, place), tool.get("tools")
        if not isinstance(nested, list):
            raise make_parameter_error(f"{place}.tools", "be a list of tools", is_missing=nested is None)
        for position, each in enumerate(nested):
            inner = f"{place}.tools[{position}]"
            kind = each.get("type") if isinstance(each, dict) else None
            if not isinstance(kind, str) or kind not in {"function", "custom"}:
                is_missing = isinstance(each, dict) and kind is None
                raise make_parameter_error(f"{inner}.type", "be `function` or `custom`", is_missing=is_missing)
            self._add_one(each, kind, name, inner)

    def _add_one(self, tool: dict[str, Any], kind: str, namespace: str | None, place: str) -> None:
        found = Tool(_get_name(tool, place), namespace, kind == "custom")
        if (namespace, found.name) in self._by_name:
            raise BadRequest(
                f"`{place}` has the name of another tool, {found.name!r}. Give each tool a name of its own.",
                param=f"{place}.name",
                code="duplicate_tool",
            )
        name = self._make_function_name(found)
        self._by_function[name] = found
        self._by_name[namespace, found.name] = name
        self.functions.append(_make_function(tool, name, is_custom=found.is_custom))

    def _make_function_name(self, tool: Tool) -> str:
        name = make_function_name(tool.name, tool.namespace)
        return name if name not in self._by_function else add_hash(name, f"{tool.namespace} {tool.name}")

    def find_function(self, name: str, namespace: str | None) -> str:
        """Returns the name of the function for a tool, even for one that the request no longer has."""
        return self._by_name.get((namespace, name)) or make_function_name(name, namespace)

    def find_tool(self, function: str) -> Tool:
        """Returns the tool for a function; if the model invented the function, a tool with the function's own name."""
        return self._by_function.get(function) or Tool(function)

    def make_choice(self, choice: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Returns `tool_choice` of a chat request, and the functions among which it lets the model choose.

        Args:
            choice: a name, or an object that names one tool or several.

        Raises:
            BadRequest: it does not name a tool of this request.
        """
        if isinstance(choice, str) and choice in _CHOICES:
            self._raise_if_nothing_to_call(choice)
            return choice, self.functions
        kind = choice.get("type") if isinstance(choice, dict) else None
        if kind == "allowed_tools":
            return self._allow_some(choice)
        if kind in ("function", "custom"):
            names = list(self._find_functions(choice))
            if len(names) == 1:
                return {"type": "function", "function": {"name": names[0]}}, self.functions
        raise _make_choice_error("tool_choice")

    def _raise_if_nothing_to_call(self, choice: str) -> None:
        if choice == "required" and not self.functions:
            raise BadRequest(
                "`tool_choice` requires a call, but there is no tool to call. Send `tools`, or another `tool_choice`.",
                param="tool_choice",
                code="invalid_parameter",
            )

    def _allow_some(self, choice: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        mode, allowed = choice.get("mode", "auto"), choice.get("tools")
        if mode not in ("auto", "required") or not isinstance(allowed, list):
            raise make_parameter_error("tool_choice", "have a `mode`, `auto` or `required`, and a list of `tools`")
        names = {name for each in allowed for name in self._find_functions(each)}
        functions = [function for function in self.functions if function["function"]["name"] in names]
        if not functions:
            raise _make_choice_error("tool_choice.tools")
        return mode, functions

    def _find_functions(self, choice: Any) -> Iterator[str]:
        """Yields the functions for the tools named by an element of `tool_choice`."""
        if not isinstance(choice, dict):
            return
        name, namespace = choice.get("name"), choice.get("namespace")
        for function, tool in self._by_function.items():
            if choice.get("type") == "namespace":
                is_meant = tool.namespace is not None and tool.namespace == name
            else:
                is_meant = (tool.namespace, tool.name) == (namespace, name) or (namespace is None and function == name)
            if is_meant:
                yield function


def _make_choice_error(param: str) -> BadRequest:
    return BadRequest(
        f"`{param}` names no tool that the model can call. Name a function or custom tool of `tools`; tools that "
        "OpenAI's servers run, such as web_search, are not available here.",
        param=param,
        code="invalid_parameter",
    )


def _get_name(tool: dict[str, Any], place: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise make_parameter_error(f"{place}.name", "be a string with the tool's name", is_missing=name is None)
    return name


def make_function_name(name: str, namespace: str | None) -> str:
    """Returns a name for a function that providers accept; the same tool has the same name in every request."""
    full = name if namespace is None else f"{namespace}{_SEPARATOR}{name}"
    safe = _REFUSED_CHARACTERS.sub("_", full)
    return shorten_name(full) if safe == full else add_hash(safe, full)


def _make_function(tool: dict[str, Any], name: str, *, is_custom: bool) -> dict[str, Any]:
    """Returns a function with only the fields that every provider knows, because some refuse all others."""
    function: dict[str, Any] = {"name": name}
    description = tool.get("description")
    description = description if isinstance(description, str) else ""
    if is_custom:
        description = "\n\n".join(filter(None, [description, _describe_format(tool.get("format"))]))
    if description:
        function["description"] = description
    function["parameters"] = _INPUT_SCHEMA if is_custom else tool.get("parameters") or _NO_PARAMETERS
    return {"type": "function", "function": function}


def _describe_format(form: Any) -> str:
    """Returns a sentence about the grammar of a custom tool's input, which no provider enforces."""
    if not isinstance(form, dict) or form.get("type") != "grammar":
        return ""
    return f"The input must follow this {form.get('syntax')} grammar:\n{form.get('definition')}"
