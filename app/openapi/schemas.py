"""JSON Schemas of Structs: their types, ranges and docstrings, in the form of OpenAPI 3.1.

msgspec's own generator is not used, because in answers, fields with defaults are always present, decimals are JSON
numbers, and times have an offset; in requests, each of these is different.
"""

from __future__ import annotations

import inspect as python_inspect
import re
from typing import Any, Literal

import msgspec
from msgspec import inspect

Schema = dict[str, Any]
# A request may leave out fields with a default. An answer has every field, unless its type says that it may be unset.
Direction = Literal["request", "answer"]

_PLAIN: dict[type[inspect.Type], Schema] = {
    inspect.AnyType: {},
    inspect.BoolType: {"type": "boolean"},
    inspect.NoneType: {"type": "null"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.UUIDType: {"type": "string", "format": "uuid"},
}
_NAMES_OF_TYPES: dict[type[inspect.Type], str] = {
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.StrType: "string",
}
_BOUNDS = {
    "ge": "minimum",
    "le": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
    "pattern": "pattern",
}
_NAMES = re.compile(r"^([a-z_]+(?:, [a-z_]+)*): ")


class SchemaMaker:
    """Makes schemas, and collects those of the Structs that they refer to.

    Attributes:
        components: Struct name → its schema.
    """

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._made: dict[str, tuple[type, Direction]] = {}

    def make(self, kind: Any, direction: Direction) -> Schema:
        """Returns the schema of a type; for a Struct a reference to its component.

        Raises:
            ValueError: two Structs have the same name, or one has different schemas in a request and in an answer.
        """
        return self._make(inspect.type_info(kind), direction)

    def make_inline(self, kind: type[msgspec.Struct]) -> Schema:
        """Returns the schema of a request's Struct itself, without a component for it."""
        described = inspect.type_info(kind)
        assert isinstance(described, inspect.StructType)
        return self._make_struct(described, "request")

    def _make(self, kind: inspect.Type, direction: Direction) -> Schema:
        if type(kind) in _PLAIN:
            return dict(_PLAIN[type(kind)])
        if isinstance(kind, inspect.DecimalType):
            return {"type": "number"} if direction == "answer" else {"type": ["number", "string"]}
        if isinstance(kind, inspect.Metadata):
            return self._make(kind.type, direction) | (kind.extra_json_schema or {})
        made = self._make_composite(kind, direction)
        return _make_bounded(kind) if made is None else made

    def _make_composite(self, kind: inspect.Type, direction: Direction) -> Schema | None:
        """Returns the schema of a type that is composed of others; None for any other type."""
        if isinstance(kind, inspect.ListType | inspect.VarTupleType):
            items = self._make(kind.item_type, direction)
            return {"type": "array", "items": items, **_bound_length(kind, "Items")}
        if isinstance(kind, inspect.DictType):
            values = self._make(kind.value_type, direction)
            return {"type": "object", **({"additionalProperties": values} if values else {})}
        if isinstance(kind, inspect.UnionType):
            return self._make_union(kind, direction)
        return self._refer(kind, direction) if isinstance(kind, inspect.StructType) else None

    def _make_union(self, kind: inspect.UnionType, direction: Direction) -> Schema:
        parts = [self._make(part, direction) for part in kind.types]
        if {} in parts:
            return {}
        null = {"type": "null"}
        others = [part for part in parts if part != null]
        if len(others) == 1 and len(parts) == 2 and isinstance(others[0].get("type"), str):
            made = others[0] | {"type": [others[0]["type"], "null"]}
            return made | ({"enum": [*made["enum"], None]} if "enum" in made else {})
        return others[0] if len(parts) == 1 else {"anyOf": [*others, *([null] if null in parts else [])]}

    def _refer(self, kind: inspect.StructType, direction: Direction) -> Schema:
        name = kind.cls.__name__
        if name not in self._made:
            self._made[name] = (kind.cls, direction)
            self.components[name] = self._make_struct(kind, direction)
        elif self._made[name] != (kind.cls, direction):
            raise ValueError(f"{name} is the name of two Structs, or is in requests and in answers")
        return {"$ref": f"#/components/schemas/{name}"}

    def _make_struct(self, kind: inspect.StructType, direction: Direction) -> Schema:
        texts = describe_fields(kind.cls)
        properties, required = {}, []
        for field in kind.fields:
            made = self._make(field.type, direction)
            if field.default not in (msgspec.NODEFAULT, None, (), "") and direction == "request":
                made["default"] = field.default
            text = texts.get(field.name)
            properties[field.encode_name] = made | ({"description": text} if text else {})
            # A field that may be unset is not required, and has no default.
            has_default = (field.default, field.default_factory) != (msgspec.NODEFAULT, msgspec.NODEFAULT)
            if field.required or (has_default and direction == "answer"):
                required.append(field.encode_name)
        schema: Schema = {"type": "object", "description": describe(kind.cls), "properties": properties}
        schema |= {"required": required} if required else {}
        return schema | ({"additionalProperties": False} if kind.forbid_unknown_fields else {})


def _make_bounded(kind: inspect.Type) -> Schema:
    if isinstance(kind, inspect.LiteralType):
        return {"type": "string", "enum": list(kind.values)}
    made: Schema = {"type": _NAMES_OF_TYPES[type(kind)]}
    for attribute, keyword in _BOUNDS.items():
        if (bound := getattr(kind, attribute, None)) is not None:
            made[keyword] = bound
    return made | _bound_length(kind, "Length")


def _bound_length(kind: Any, suffix: str) -> Schema:
    bounds = {"min" + suffix: getattr(kind, "min_length", None), "max" + suffix: getattr(kind, "max_length", None)}
    return {keyword: bound for keyword, bound in bounds.items() if bound is not None}


def describe(subject: Any) -> str:
    """Returns the first paragraph of a docstring, in JSON's words."""
    return _to_json_words((python_inspect.getdoc(subject) or "").partition("\n\n")[0])


def describe_fields(kind: type) -> dict[str, str]:
    """Returns field name → description, from `Attributes:` in the docstrings of a Struct and its bases."""
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        _, _, section = python_inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \S)", section.partition("\n\n")[0]):
            found = _NAMES.match(entry.strip())
            if found is not None:
                text = _to_json_words(entry.strip()[found.end() :])
                texts |= dict.fromkeys(found[1].split(", "), text)
    return texts


def _to_json_words(text: str) -> str:
    words = re.sub(r"\bNone\b", "null", " ".join(text.split()))
    return re.sub(r"\bTrue\b|\bFalse\b", lambda found: found[0].lower(), words)
