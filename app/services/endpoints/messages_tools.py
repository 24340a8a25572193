"""Translates Anthropic's tools into chat functions with chat's fields only, because providers refuse others."""

from __future__ import annotations

from typing import Any

from app.errors import BadRequest
from app.services.endpoints.endpoint import make_parameter_error
from app.services.endpoints.messages_blocks import Omit
from app.services.endpoints.tool_names import shorten_name

_KNOWN = {"name", "description", "input_schema", "type"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def translate_tools(tools: list[Any] | None, omit: Omit) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Returns chat functions and, for names that are too long there, the shortened name → the tool's own.

    Args:
        tools: the request's tools. Tools that Anthropic's servers run are left out if there are others, and so are
            those that a client defers until it names them.
        omit: gets the names of the removed fields and tools.

    Raises:
        BadRequest: a tool is malformed, or all tools are run on Anthropic's servers.
    """
    functions, names, unknown = [], {}, []
    for position, tool in enumerate(tools or ()):
        path = f"tools[{position}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not tool["name"]:
            raise make_parameter_error(path, "be an object with `name` and `input_schema`")
        kind = tool.get("type")
        if kind not in (None, "custom"):
            omit(f"tools[].type={kind}")
            unknown.append(tool["name"])
        elif tool.get("defer_loading") is True:
            omit("tools[].defer_loading")
        else:
            function = _make_function(tool, path, omit)
            if function["name"] != tool["name"]:
                names[function["name"]] = tool["name"]
            functions.append({"type": "function", "function": function})
    if unknown and not functions:
        raise BadRequest(
            f"The tool {unknown[0][:200]!r} runs on Anthropic's servers, which the gateway does not use. Leave it out, "
            "or define a tool of your own with `input_schema`.",
            param="tools",
            code="unsupported_tool",
        )
    return functions, names


def _make_function(tool: dict[str, Any], path: str, omit: Omit) -> dict[str, Any]:
    schema = tool.get("input_schema")
    if not isinstance(schema, dict):
        raise make_parameter_error(f"{path}.input_schema", "be an object", is_missing=schema is None)
    for name, value in tool.items():
        if name not in _KNOWN and value not in (None, False):
            omit(f"tools[].{name}")
    function: dict[str, Any] = {"name": shorten_name(tool["name"])}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    function["parameters"] = {name: value for name, value in schema.items() if name != "$schema"}
    return function


def translate_tool_choice(choice: dict[str, Any] | None, functions: list[dict[str, Any]], omit: Omit) -> dict[str, Any]:
    """Returns the chat fields for a choice: `tool_choice`, `parallel_tool_calls`, both or none.

    Raises:
        BadRequest: it names no tool of the request.
    """
    if choice is None:
        return {}
    kind = choice.get("type")
    fields: dict[str, Any] = {}
    if not functions:
        if kind in ("any", "tool"):
            raise make_parameter_error(
                "tool_choice", "not ask for a tool, because the request has none that can be used"
            )
        omit("tool_choice")
        return {}
    if kind == "tool":
        name = choice.get("name")
        short = shorten_name(name) if isinstance(name, str) else None
        if all(function["function"]["name"] != short for function in functions):
            raise make_parameter_error("tool_choice.name", "be the name of one of `tools`", is_missing=name is None)
        fields["tool_choice"] = {"type": "function", "function": {"name": short}}
    elif kind in _CHOICES:
        fields["tool_choice"] = _CHOICES[kind]
    else:
        raise make_parameter_error("tool_choice.type", "be auto, any, tool or none", is_missing=kind is None)
    if choice.get("disable_parallel_tool_use") is True:
        fields["parallel_tool_calls"] = False
    return fields
