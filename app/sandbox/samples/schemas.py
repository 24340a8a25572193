"""A JSON Schema without references and combinators: one schema for each alternative, with all constraints."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any
from urllib.parse import unquote

from app.sandbox.samples.errors import Budget, NoSample

Schema = Any
"""A dict, or true (everything) or false (nothing)."""

# If the combinators of a schema allow more alternatives, only the first ones are used.
_MAX_ALTERNATIVES = 64
# The parts of a schema that are copied in one step of work.
_LISTED_PER_STEP = 20
_COMBINATORS = ("$ref", "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "nullable")


class Schemas:
    """One document with its references.

    It returns the same object for the same schema, so that callers can recognise schemas by id().
    """

    def __init__(self, root: Schema, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self._alternatives: dict[int, tuple[Schema, list[dict[str, Any]]]] = {}
        self._joined: dict[tuple[int, ...], tuple[list[Schema], Schema]] = {}

    def resolve(self, reference: str) -> Schema:
        """Returns the target of a `$ref`; raises NoSample if it is not in the document."""
        target = self._root
        if not reference.startswith("#"):
            raise NoSample(f"the $ref {reference!r} leads out of the schema; only those that begin with # are followed")
        for part in reference[1:].split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(name)] if isinstance(target, list) else target[name]
            except (LookupError, TypeError, ValueError):
                raise NoSample(f"the $ref {reference!r} leads nowhere") from None
        return target

    def get_alternatives(self, schema: Schema) -> list[dict[str, Any]]:
        """Returns schemas without combinators, in the order of preference; a value of any of them may fit `schema`.

        `oneOf` and `not` forbid more than these schemas, so a value has to be checked.
        """
        if id(schema) not in self._alternatives:
            found = list(islice(self._expand([schema], [], frozenset()), _MAX_ALTERNATIVES))
            self._alternatives[id(schema)] = (schema, found)
        return self._alternatives[id(schema)][1]

    def join(self, *schemas: Schema) -> Schema:
        """Returns a schema for the values that fit all of `schemas`."""
        parts = [schema for schema in schemas if schema is not True and schema != {}]
        if len(parts) < 2:
            return parts[0] if parts else True
        key = tuple(id(part) for part in parts)
        return self._joined.setdefault(key, (parts, {"allOf": parts}))[1]

    def _expand(
        self, todo: list[Schema], plain: list[dict[str, Any]], seen: frozenset[str]
    ) -> Iterator[dict[str, Any]]:
        """Yields one merged schema for each choice of alternatives in `todo`."""
        while todo:
            self._budget.spend(1 + (len(todo) + len(plain)) // _LISTED_PER_STEP)
            schema, *todo = todo
            if schema is False:
                return
            if schema is True:
                continue
            schema = normalise(schema)
            reference = schema.get("$ref")
            if reference is not None and reference not in seen:
                # The target defines the value; keywords beside the reference (a default) take precedence over it.
                seen |= {reference}
                todo = [self.resolve(reference), *todo]
            todo = [*schema.get("allOf", ()), *todo]
            choices = _find_choices(schema)
            plain = [*plain, {key: value for key, value in schema.items() if key not in _COMBINATORS}]
            if choices:
                first, *others = choices
                for branch in first:
                    yield from self._expand([branch, *({"anyOf": other} for other in others), *todo], plain, seen)
                return
        merged: dict[str, Any] = {}
        for part in plain:
            self._merge(merged, part)
        yield merged

    def _merge(self, into: dict[str, Any], part: dict[str, Any]) -> None:
        """Adds the constraints of `part` to `into`; those that cannot be merged go into its `allOf`."""
        for key, value in part.items():
            if key not in into:
                into[key] = value
            elif key in ("properties", "patternProperties"):
                into[key] = into[key] | {
                    name: self.join(into[key][name], inner) if name in into[key] else inner
                    for name, inner in value.items()
                }
            elif key in ("items", "additionalProperties", "propertyNames", "contains"):
                into[key] = self.join(into[key], value)
            elif key in _MERGERS:
                into[key] = _MERGERS[key](into[key], value)
            elif key in ("const", "pattern", "format", "not", "prefixItems") and value != into[key]:
                into["allOf"] = [*into.get("allOf", ()), {key: value}]


def normalise(schema: Any) -> dict[str, Any]:
    """Returns a schema with the keywords of older drafts replaced by those of the newest."""
    if not isinstance(schema, dict):
        raise TypeError(f"{schema!r} is not a schema")
    if isinstance(schema.get("items"), list):
        schema = schema | {"prefixItems": schema["items"], "items": schema.get("additionalItems", True)}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool):
            limits = {exclusive: schema[bound]} if schema[exclusive] and bound in schema else {}
            schema = {key: value for key, value in schema.items() if key != exclusive} | limits
    for name, needs in schema.get("dependencies", {}).items():
        kind = "dependentRequired" if isinstance(needs, list) else "dependentSchemas"
        schema = schema | {kind: schema.get(kind, {}) | {name: needs}}
    return dict(schema)


def _find_choices(schema: dict[str, Any]) -> list[list[Schema]]:
    """Returns the alternatives that the combinators of a schema allow."""
    choices = [schema[key] for key in ("anyOf", "oneOf") if key in schema]
    if schema.get("nullable") is True:  # OpenAPI 3.0.
        choices.append([{key: value for key, value in schema.items() if key == "type"}, {"type": "null"}])
    if "if" in schema:
        met = {"allOf": [schema["if"], schema.get("then", True)]}
        choices.append([met, {"not": schema["if"], "allOf": [schema.get("else", True)]}])
    for name, inner in schema.get("dependentSchemas", {}).items():
        choices.append([inner, {"properties": {name: False}}])
    return choices


def get_types(schema: dict[str, Any]) -> list[str]:
    """Returns the types that a schema without combinators allows; without a type, those implied by its keywords.

    An empty list allows no type at all.
    """
    types = schema.get("type")
    if isinstance(types, str):
        return [types]
    if types is not None:
        return list(types)
    for kind, words in _WORDS_OF.items():
        if words & schema.keys():
            return [kind]
    return ["string"]


_WORDS_OF = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"},
    "array": {"items", "prefixItems", "contains", "minItems", "uniqueItems"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}


def _intersect_types(first: Any, second: Any) -> list[str]:
    ours, theirs = get_types({"type": first}), get_types({"type": second})
    both = [kind for kind in ours if kind in theirs]
    if "integer" not in both and {"integer", "number"} <= {*ours, *theirs}:
        both.append("integer")
    return both


def _intersect_values(first: list[Any], second: list[Any]) -> list[Any]:
    return [value for value in first if value in second]


def _find_common_multiple(first: float, second: float) -> float | int:
    one, other = to_fraction(first), to_fraction(second)
    common = Fraction(math.lcm(one.numerator, other.numerator), math.gcd(one.denominator, other.denominator))
    return common.numerator if common.denominator == 1 else float(common)


def _unite(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *(name for name in second if name not in first)]


_MERGERS: dict[str, Callable[[Any, Any], Any]] = {
    "type": _intersect_types,
    "enum": _intersect_values,
    "multipleOf": _find_common_multiple,
    "required": _unite,
    "uniqueItems": lambda first, second: first or second,
    "dependentRequired": lambda first, second: first | second,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"), min),
}


def to_fraction(number: float) -> Fraction:
    """Returns a number exactly as written in decimal; raises OverflowError if it is infinite."""
    if isinstance(number, float) and not math.isfinite(number):
        raise OverflowError("an infinite number")
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))
