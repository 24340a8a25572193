"""Checks whether a value fits a JSON Schema; each sample is checked before it is sent."""

import json
from collections.abc import Callable
from typing import Any

from app.sandbox.samples.errors import Budget, NoSample
from app.sandbox.samples.formats import has_format
from app.sandbox.samples.patterns import matches
from app.sandbox.samples.schemas import Schema, Schemas, get_types, normalise, to_fraction

# The characters of a text that count as one step of work.
_CHARS_PER_STEP = 100
# The most nested schemas that are examined for one value: more mean a schema that refers to itself.
_MAX_DEPTH = 120


class Checker:
    """Checks values against the schemas of one document."""

    def __init__(self, schemas: Schemas, budget: Budget) -> None:
        self._schemas = schemas
        self._budget = budget
        self._depth = 0

    def fits(self, value: Any, schema: Schema) -> bool:
        """Returns whether a value fits; False if that cannot be determined."""
        try:
            return self.find_problem(value, schema) is None
        except NoSample:
            return False

    def find_problem(self, value: Any, schema: Schema) -> NoSample | None:
        """Returns the part that does not fit, with its path, or None.

        Raises:
            NoSample: that cannot be determined, for instance because a pattern would take too long.
            UnsupportedSchema: the budget is used up.
        """
        self._budget.spend(1 + (len(value) // _CHARS_PER_STEP if isinstance(value, str) else 0))
        if schema is True:
            return None
        if schema is False:
            return NoSample("the schema allows no value here")
        if self._depth >= _MAX_DEPTH:
            raise NoSample("the schema refers to itself, or is nested too deeply")
        self._depth += 1
        try:
            return self._find_problem(value, normalise(schema))
        finally:
            self._depth -= 1

    def _find_problem(self, value: Any, schema: dict[str, Any]) -> NoSample | None:
        kind = get_kind(value)
        if "type" in schema and not _is_of_type(value, kind, get_types(schema)):
            return None if value is None and schema.get("nullable") is True else NoSample("type")
        for words in (_ANY_VALUE, _BY_KIND.get(kind, {})):
            for word, check in words.items():
                if word in schema and not check(value, schema[word]):
                    return NoSample(f"{word} {_quote(schema[word])} allows no such value as {_quote(value)}")
        combined = self._find_combined_problem(value, schema)
        if combined:
            return combined
        if kind == "object":
            return self._find_object_problem(value, schema)
        return self._find_array_problem(value, schema) if kind == "array" else None

    def _find_combined_problem(self, value: Any, schema: dict[str, Any]) -> NoSample | None:
        for part in self._get_parts(value, schema):
            problem = self.find_problem(value, part)
            if problem:
                return problem
        if "anyOf" in schema and all(self.find_problem(value, branch) for branch in schema["anyOf"]):
            return NoSample(f"none of the alternatives of anyOf allows {_quote(value)}")
        if "oneOf" in schema:
            fitting = sum(self.find_problem(value, branch) is None for branch in schema["oneOf"])
            if fitting != 1:
                return NoSample(f"{fitting} alternatives of oneOf, instead of one, allow {_quote(value)}")
        if "not" in schema and self.find_problem(value, schema["not"]) is None:
            return NoSample(f"its `not` forbids {_quote(value)}")
        return None

    def _get_parts(self, value: Any, schema: dict[str, Any]) -> list[Schema]:
        """Returns the schemas that must all fit because of `allOf` and similar keywords."""
        parts = list(schema.get("allOf", ()))
        if "$ref" in schema:
            parts.append(self._schemas.resolve(schema["$ref"]))
        if "if" in schema:
            parts.append(schema.get("else" if self.find_problem(value, schema["if"]) else "then", True))
        if isinstance(value, dict):
            parts += [part for name, part in schema.get("dependentSchemas", {}).items() if name in value]
        return parts

    def _find_object_problem(self, value: dict[str, Any], schema: dict[str, Any]) -> NoSample | None:
        for name, inner in value.items():
            names = schema.get("propertyNames", True)
            problem = self.find_problem(name, names)
            if problem:
                return problem.below(f"(the name {name})")
            for part in get_property_schemas(schema, name):
                problem = self.find_problem(inner, part)
                if problem:
                    return problem.below(name)
        for name, needs in schema.get("dependentRequired", {}).items():
            if name in value and any(need not in value for need in needs):
                return NoSample(f"{name} is there without what dependentRequired demands")
        return None

    def _find_array_problem(self, value: list[Any], schema: dict[str, Any]) -> NoSample | None:
        first = schema.get("prefixItems", [])
        for position, item in enumerate(value):
            part = first[position] if position < len(first) else schema.get("items", True)
            problem = self.find_problem(item, part)
            if problem:
                return problem.below(str(position))
        if "contains" in schema:
            found = sum(self.find_problem(item, schema["contains"]) is None for item in value)
            if not schema.get("minContains", 1) <= found <= schema.get("maxContains", found):
                return NoSample(f"{found} items fit `contains`")
        return None


def get_property_schemas(schema: dict[str, Any], name: str) -> list[Schema]:
    """Returns the schemas that the value of a property must fit."""
    found = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    found += [inner for pattern, inner in schema.get("patternProperties", {}).items() if matches(pattern, name)]
    return found or [schema.get("additionalProperties", True)]


def get_kind(value: Any) -> str:
    """Returns JSON Schema's name for the type of a value; a whole number is an "integer"."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float) and value.is_integer():
        return "integer"
    return _KINDS[type(value)]


_KINDS: dict[type, str] = {
    type(None): "null",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def _is_of_type(value: Any, kind: str, allowed: list[str]) -> bool:
    return kind in allowed or (kind == "integer" and "number" in allowed)


def to_text(value: Any) -> str:
    """Returns a text that is the same for equal values: 1 and 1.0 are equal, 1 and true are not."""
    return json.dumps(_to_plain(value), sort_keys=True)


def _to_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _to_plain(inner) for name, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quote(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"


def _is_distinct(items: list[Any], wanted: bool) -> bool:
    return not wanted or len({to_text(item) for item in items}) == len(items)


Check = Callable[[Any, Any], bool]
_ANY_VALUE: dict[str, Check] = {
    "enum": lambda value, allowed: to_text(value) in {to_text(one) for one in allowed},
    "const": lambda value, only: to_text(value) == to_text(only),
}
_NUMBER: dict[str, Check] = {
    "minimum": lambda value, limit: bool(value >= limit),
    "maximum": lambda value, limit: bool(value <= limit),
    "exclusiveMinimum": lambda value, limit: bool(value > limit),
    "exclusiveMaximum": lambda value, limit: bool(value < limit),
    "multipleOf": lambda value, step: (to_fraction(value) / to_fraction(step)).denominator == 1,
}
_BY_KIND: dict[str, dict[str, Check]] = {
    "integer": _NUMBER,
    "number": _NUMBER,
    "string": {
        "minLength": lambda text, limit: len(text) >= limit,
        "maxLength": lambda text, limit: len(text) <= limit,
        "pattern": lambda text, pattern: matches(pattern, text),
        "format": lambda text, name: has_format(text, name),
    },
    "array": {
        "minItems": lambda items, limit: len(items) >= limit,
        "maxItems": lambda items, limit: len(items) <= limit,
        "uniqueItems": _is_distinct,
    },
    "object": {
        "required": lambda value, names: all(name in value for name in names),
        "minProperties": lambda value, limit: len(value) >= limit,
        "maxProperties": lambda value, limit: len(value) <= limit,
    },
}
