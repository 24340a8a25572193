"""Makes a value for a JSON Schema."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from app.sandbox.samples.checker import Checker, get_property_schemas, to_text
from app.sandbox.samples.errors import Budget, NoSample, UnsupportedSchema
from app.sandbox.samples.numbers import make_number
from app.sandbox.samples.schemas import Schema, Schemas, get_types
from app.sandbox.samples.texts import make_text

# Items of a list, entries of an object; a schema that requires more is refused.
_MAX_ITEMS = 1_000
# The deepest nesting of values, and the number of values that are complete; further ones are the smallest.
_MAX_DEPTH, _MAX_COMPLETE = 40, 1_000
# The number of values made to find one that differs from those before it.
_TRIES_PER_ITEM = 12
# The depths at which the smallest values are searched for.
_DEPTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def make_sample(schema: Any, word: str, *, required_only: bool) -> Any:
    """Returns a value that fits a schema; the same arguments always give the same value.

    A default or example is used if there is one; else strings become `word` (or have the format, the pattern), numbers
    their minimum or 1, an enum its first value, an array one item (or minItems), an object its properties (only the
    required ones if `required_only`), and a schema with alternatives the first one that has a value. If a schema refers
    to itself, the smallest value ends the recursion.

    Args:
        schema: a JSON Schema of any draft from 4 on, as an object or as JSON text.
        word: a word of the prompt.
        required_only: whether properties that are not required are left out.

    Raises:
        UnsupportedSchema: no value was found, the schema is malformed, or a value would be too large.
    """
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        return _Sampler(schema, word, required_only).make()
    except NoSample as error:
        raise UnsupportedSchema(f"no value was found {error.describe()}") from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # A schema may be malformed anywhere; catching that here spares the other functions the checks.
        raise UnsupportedSchema(
            f"could not understand the instance `{_shorten(schema)}`: it is malformed or nested too deeply"
        ) from error


def _shorten(schema: Any) -> str:
    text = str(schema)
    return text if len(text) <= 200 else text[:200] + "…"


class _Sampler:
    """Makes the values for one document.

    Methods take `fuel`: the most levels of nested values, to make the smallest value; None makes a complete one.
    """

    def __init__(self, root: Schema, word: str, required_only: bool) -> None:
        self._root = root
        self._word = word
        self._required_only = required_only
        self._budget = Budget()
        self._schemas = Schemas(root, self._budget)
        self._checker = Checker(self._schemas, self._budget)
        self._open: set[int] = set()
        self._complete = 0
        self._smallest: dict[tuple[int, int, int], Any] = {}

    def make(self) -> Any:
        """Returns a value for the document; raises NoSample if there is none."""
        value = self._make(self._root, 0, None)
        problem = self._checker.find_problem(value, self._root)
        if problem:
            raise problem
        return value

    def _make(self, schema: Schema, variant: int, fuel: int | None) -> Any:
        self._budget.spend()
        if fuel is not None:
            return self._make_with_fuel(schema, variant, fuel)
        self._complete += 1
        if id(schema) in self._open or len(self._open) >= _MAX_DEPTH or self._complete > _MAX_COMPLETE:
            return self._make_smallest(schema, variant)
        self._open.add(id(schema))
        try:
            return self._make_any(schema, variant, None)
        finally:
            self._open.discard(id(schema))

    def _make_smallest(self, schema: Schema, variant: int) -> Any:
        for fuel in _DEPTHS:
            try:
                return self._make_with_fuel(schema, variant, fuel)
            except NoSample as error:
                last = error
        raise last

    def _make_with_fuel(self, schema: Schema, variant: int, fuel: int) -> Any:
        """Returns the cached value for the same arguments, or makes it, so that the time is linear."""
        if fuel < 0:
            raise NoSample("values for it never end, or are nested too deeply")
        key = (id(schema), variant, fuel)
        if key not in self._smallest:
            try:
                self._smallest[key] = self._make_any(schema, variant, fuel)
            except NoSample as error:
                self._smallest[key] = error
        found = self._smallest[key]
        if isinstance(found, NoSample):
            raise found
        return found

    def _make_any(self, schema: Schema, variant: int, fuel: int | None) -> Any:
        """Returns a value of the first alternative that has one; variants rotate through the alternatives."""
        alternatives = self._schemas.get_alternatives(schema)
        failure = NoSample("the schema allows no value here")
        for turn in range(len(alternatives)):
            chosen = alternatives[(variant + turn) % len(alternatives)]
            # If everything was merged without a rest, a value fits in any case.
            checks = len(alternatives) > 1 or "not" in chosen or "allOf" in chosen
            for kind in get_types(chosen):
                try:
                    value = self._make_kind(chosen, kind, variant // len(alternatives), fuel)
                except NoSample as error:
                    failure = error if error.path or turn == 0 else failure
                    continue
                problem = self._checker.find_problem(value, schema) if checks else None
                if problem is None:
                    return value
                failure = problem
        raise failure

    def _make_kind(self, schema: dict[str, Any], kind: str, variant: int, fuel: int | None) -> Any:
        if variant == 0:
            for given in _get_given(schema):
                if self._checker.fits(given, schema):
                    return given
        allowed = [schema["const"]] if "const" in schema else schema.get("enum")
        if allowed is not None:
            fitting = [value for value in allowed[:_MAX_ITEMS] if self._checker.fits(value, schema)]
            if not fitting:
                raise NoSample("no value of the enum or const fits the rest of the schema")
            return fitting[variant % len(fitting)]
        if kind == "object":
            return self._make_object(schema, variant, fuel)
        if kind == "array":
            return self._make_array(schema, variant, fuel)
        return self._make_scalar(schema, kind, variant, fuel)

    def _make_scalar(self, schema: dict[str, Any], kind: str, variant: int, fuel: int | None) -> Any:
        if kind in ("integer", "number"):
            return make_number(schema, variant, whole=kind == "integer")
        if kind == "boolean":
            return variant % 2 == 0
        if kind == "null":
            return None
        if kind != "string":
            raise NoSample(f"there is no type {kind!r}")
        if schema.get("contentMediaType") == "application/json":
            return json.dumps(self._make(schema.get("contentSchema", True), variant, fuel))
        return make_text(schema, self._word, variant, lambda text: self._checker.fits(text, schema))

    def _make_object(self, schema: dict[str, Any], variant: int, fuel: int | None) -> dict[str, Any]:
        required = _get_required(schema)
        known = [*schema.get("properties", {})]
        complete = fuel is None and not self._required_only
        wanted = [name for name in known if name in required or complete]
        wanted += [name for name in required if name not in wanted]
        most = schema.get("maxProperties", _MAX_ITEMS)
        value: dict[str, Any] = {}
        for name in wanted:
            if name in required or len(value) + len(required.keys() - value.keys()) < most:
                self._add(value, name, schema, variant, fuel, optional=name not in required)
        least = schema.get("minProperties", 0)
        self._fill(value, least, schema, variant, fuel, known)
        if complete and not known and not value and _is_dict(schema) and most > 0:
            with suppress(NoSample):
                self._fill(value, 1, schema, variant, fuel, known)
        return value

    def _fill(
        self,
        value: dict[str, Any],
        least: int,
        schema: dict[str, Any],
        variant: int,
        fuel: int | None,
        known: list[str],
    ) -> None:
        """Adds properties until there are `least`, as far as possible."""
        names = self._propose_names(schema, variant, fuel, known)
        while len(value) < least and (name := next(names, None)) is not None:
            if name not in value:
                self._add(value, name, schema, variant, fuel, optional=False)

    def _add(
        self,
        value: dict[str, Any],
        name: str,
        schema: dict[str, Any],
        variant: int,
        fuel: int | None,
        *,
        optional: bool,
    ) -> None:
        """Adds a property; an optional one only if there is a value for it."""
        parts = get_property_schemas(schema, name)
        try:
            value[name] = self._make(self._schemas.join(*parts), variant, _burn(fuel))
        except NoSample as error:
            if not optional:
                raise error.below(name) from None

    def _propose_names(self, schema: dict[str, Any], variant: int, fuel: int | None, known: list[str]) -> Iterator[str]:
        """Yields names of optional properties, then of others: numbers, which fit pydantic's `dict[int, …]` too."""
        yield from known
        if schema.get("minProperties", 0) > _MAX_ITEMS:
            raise NoSample(f"more than {_MAX_ITEMS:,} properties are demanded")
        names = schema.get("propertyNames", True)
        patterns = [{"pattern": pattern} for pattern in schema.get("patternProperties", {})]
        form = self._schemas.join({"type": "string"}, names, *patterns[:1]) if patterns or names is not True else None
        if form is None and schema.get("additionalProperties", True) is False:
            return
        for number in range(_MAX_ITEMS * 2):
            yield str(number + variant + 1) if form is None else self._make(form, number + variant, _burn(fuel))

    def _make_array(self, schema: dict[str, Any], variant: int, fuel: int | None) -> list[Any]:
        first = schema.get("prefixItems", [])
        rest = schema.get("items", True)
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", _MAX_ITEMS)
        if least > _MAX_ITEMS:
            raise NoSample(f"more than {_MAX_ITEMS:,} items are demanded")
        contained = schema.get("minContains", 1) if "contains" in schema else 0
        usual = 0 if fuel is not None else len(first) or (0 if rest is False else 1)
        wanted = int(min(most, max(least, usual, len(first) * bool(contained) + contained)))
        items: list[Any] = []
        known: set[str] | None = set() if schema.get("uniqueItems") else None
        for position in range(wanted):
            part = first[position] if position < len(first) else rest
            if position >= len(first) and position - len(first) < contained:
                part = self._schemas.join(part, schema["contains"])
            try:
                items.append(self._make_item(part, variant, fuel, len(items), known))
            except NoSample as error:
                if position < least:
                    raise error.below(str(position)) from None
                break
        return items

    def _make_item(self, schema: Schema, variant: int, fuel: int | None, position: int, known: set[str] | None) -> Any:
        """Returns a value that is not among the `known` ones, and adds it to them; None allows every value."""
        if known is None:
            return self._make(schema, variant, _burn(fuel))
        for turn in range(_TRIES_PER_ITEM * (position + 1)):
            value = self._make(schema, variant + position + turn, _burn(fuel))
            text = to_text(value)
            if text not in known:
                known.add(text)
                return value
        raise NoSample(f"no {position + 1} different items were found")


def _is_dict(schema: dict[str, Any]) -> bool:
    """Returns whether a schema describes properties with unknown names, as for a `dict[str, int]`."""
    return isinstance(schema.get("additionalProperties"), dict) or "patternProperties" in schema


def _get_given(schema: dict[str, Any]) -> Iterator[Any]:
    """Yields the values that the schema itself suggests."""
    if "default" in schema:
        yield schema["default"]
    examples = schema.get("examples", ())
    yield from examples if isinstance(examples, list) else ()
    if "example" in schema:  # OpenAPI.
        yield schema["example"]


def _get_required(schema: dict[str, Any]) -> dict[str, None]:
    """Returns the names of the required properties, in their order."""
    required = dict.fromkeys(schema.get("required", ()))
    needs = schema.get("dependentRequired", {})
    todo = list(required)
    while todo:
        for name in needs.get(todo.pop(), ()):
            if name not in required:
                required[name] = None
                todo.append(name)
    return required


def _burn(fuel: int | None) -> int | None:
    return None if fuel is None else fuel - 1
