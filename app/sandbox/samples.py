"""Values made up from a JSON Schema: the arguments of a tool call, the object of a JSON response."""

import json
from typing import Any

# At most this many items of a list and characters of a text, whatever the schema asks for.
_MAX_ITEMS, _MAX_CHARS = 100, 10_000
# Deeper schemas (or a $ref that refers to itself) end in null instead of in endless recursion.
_MAX_DEPTH = 8


class UnsupportedSchema(Exception):
    """The schema is not one that the sandbox understands."""


def make_sample(schema: Any, word: str, *, required_only: bool) -> Any:
    """Returns a value that a simple schema accepts.

    Strings become `word`, numbers their minimum or 1, an enum its first value, an array one item (or
    minItems), an object its properties (only the required ones if `required_only`). Local `$ref`s are
    followed; patterns and formats are not obeyed. A schema may also be JSON text. Raises UnsupportedSchema.
    """
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        return _sample(schema, schema, word, required_only, 0)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        # A schema may be malformed anywhere; caught here, the functions below need no checks.
        raise UnsupportedSchema(str(schema)) from error


def _sample(schema: Any, root: Any, word: str, required_only: bool, depth: int) -> Any:
    schema = _dereference(schema, root)
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if _get_kind(schema) == "object":
        names = schema.get("required", []) if required_only else list(schema.get("properties", {}))
        fields = schema.get("properties", {})
        return {
            name: _sample(fields.get(name, {"type": "string"}), root, word, required_only, depth + 1) for name in names
        }
    if _get_kind(schema) == "array":
        item = _sample(schema.get("items", {"type": "string"}), root, word, required_only, depth + 1)
        return [item] * max(1, min(_MAX_ITEMS, int(schema.get("minItems", 1))))
    return _sample_scalar(schema, word)


def _dereference(schema: Any, root: Any) -> Any:
    """Replaces `anyOf`, `oneOf` or `allOf` with the first branch, and a local `$ref` with its target."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, dict):
            break
        branches = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if "$ref" in schema:
            schema = _resolve_pointer(root, str(schema["$ref"]))
        elif branches and "type" not in schema:
            schema = branches[0]
        else:
            break
    return schema


def _resolve_pointer(root: Any, pointer: str) -> Any:
    target = root
    for part in pointer.removeprefix("#").strip("/").split("/"):
        target = target.get(part) if part and isinstance(target, dict) else target
    return target


def _get_kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    return str(kind or ("object" if "properties" in schema else "string"))


def _sample_scalar(schema: dict[str, Any], word: str) -> Any:
    kind = _get_kind(schema)
    if kind == "integer":
        return int(schema.get("minimum", 1))
    if kind == "number":
        return schema.get("minimum", 1.5)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    text = word.ljust(min(_MAX_CHARS, int(schema.get("minLength", 0))), ".")
    return text[: schema["maxLength"]] if "maxLength" in schema else text
