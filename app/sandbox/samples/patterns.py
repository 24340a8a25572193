"""Texts that match a regular expression, built from its parts, and a check whether a text matches.

JSON Schema's patterns are JavaScript's. The common ones mean the same in Python, whose parser is used both for building
and for checking.
"""

import re
import string
from collections.abc import Callable, Iterator
from functools import lru_cache

# Python has no public parser of regular expressions; this one has been the same for twenty years.
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from app.sandbox.samples.errors import NoSample

# `re` tries every way to distribute a text over the repeats of a pattern. Their number is estimated: a power of the
# text's length, but exponential if a repeat contains another one or alternatives. With such a repeat, a text may have
# only this many characters.
_SHORT = 24
_MAX_WAYS = 10**7
_MAX_CHARS = 10_000
# The number of alternatives of each `(a|b|c)` that are tried.
_MAX_BRANCHES = 4
_LOWER, _UPPER, _DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
_OTHERS = "-_. " + string.punctuation
# The orders in which characters are tried.
_ORDERS = ((_LOWER, _DIGITS, _UPPER, _OTHERS), (_DIGITS, _LOWER, _UPPER, _OTHERS), (_UPPER, _DIGITS, _LOWER, _OTHERS))
_Node = tuple[Any, Any]


class _Pattern:
    """A parsed pattern."""

    def __init__(self, pattern: str) -> None:
        # JavaScript's syntax for a named group, and its class of all characters.
        source = re.sub(r"\(\?<(?![=!])", "(?P<", pattern).replace(r"[\s\S]", r"(?:.|\n)")
        try:
            self.compiled = re.compile(source)
            self.nodes = list(parser.parse(source))
        except (re.error, RecursionError, OverflowError) as error:
            raise NoSample(f"the pattern {pattern!r} cannot be read: {error}") from None
        self.repeats = list(_find_repeats(self.nodes, False))
        inner = [nodes for (_, (_, most, nodes)), _ in self.repeats if most > 1]
        self.branches = sum(_name(node) == "BRANCH" for nodes in inner for node in _walk(nodes))
        self.lookaheads = [node[1][1] for node in _walk(self.nodes) if _name(node) == "ASSERT" and node[1][0] == 1]

    def is_cheap(self, length: int) -> bool:
        """Returns whether checking any text of `length` characters takes only milliseconds."""
        wide = [(node, inside) for node, inside in self.repeats if node[1][1] > 1]
        nested = sum(inside for _, inside in wide) + self.branches
        if nested:
            return length * nested <= _SHORT
        return bool(length ** max(1, len(wide)) * 2 ** (len(self.repeats) - len(wide)) <= _MAX_WAYS)


@lru_cache(1000)
def _parse(pattern: str) -> _Pattern:
    return _Pattern(pattern)


def matches(pattern: str, text: str) -> bool:
    """Returns whether a pattern is found in a text.

    Raises:
        NoSample: the pattern cannot be read, or would take too long.
    """
    parsed = _parse(pattern)
    if not parsed.is_cheap(len(text)):
        raise NoSample(f"the pattern {pattern!r} would take too long to check with {len(text)} characters")
    return parsed.compiled.search(text) is not None


def make_matches(pattern: str, low: int, high: int, variant: int) -> Iterator[str]:
    """Yields texts that are likely to match a pattern, of `low` to `high` characters if possible.

    Args:
        pattern: the regular expression.
        low, high: bounds of the length, in characters.
        variant: gives other texts for each number, as far as there are any.

    Raises:
        NoSample: the pattern cannot be read, or has a part for which texts cannot be built.
    """
    parsed = _parse(pattern)
    longer = variant // len(_DIGITS)
    for groups in _ORDERS:
        order = "".join(_turn(group, variant) for group in groups)
        for branch in range(_MAX_BRANCHES):
            builder = _Builder(order, branch + variant)
            text = _stretch(parsed, builder, low + longer, high)
            ahead = "".join(builder.build(nodes) for nodes in parsed.lookaheads)
            if ahead:
                yield ahead + text
                yield (ahead + text)[: len(text)]
            if variant:
                yield text + str(variant)
            yield text
            # Patterns without ^ or $ may have other text around them.
            yield text.ljust(low, "a")
            yield text.rjust(low, "a")


def _turn(characters: str, steps: int) -> str:
    steps %= len(characters)
    return characters[steps:] + characters[:steps]


def _stretch(parsed: _Pattern, builder: "_Builder", low: int, high: int) -> str:
    """Returns a text that is extended, one repeat after another, until it has `low` characters, but at most `high`."""
    text = builder.build(parsed.nodes)
    for (_, (least, most, nodes)), _ in parsed.repeats:
        if len(text) >= min(low, _MAX_CHARS):
            break
        unit = len(builder.build(nodes))
        if unit:
            missing = min(-(-(low - len(text)) // unit), (high - len(text)) // unit)
            builder.counts[id(nodes)] = min(int(most), least + max(0, missing))
            text = builder.build(parsed.nodes)
    return text


class _Builder:
    """Builds the shortest text of a pattern, preferring the characters that come first in `order`."""

    def __init__(self, order: str, branch: int) -> None:
        self._order = order
        self._branch = branch
        self._groups: dict[int, str] = {}
        self.counts: dict[int, int] = {}

    def build(self, nodes: Any) -> str:
        """Returns the text of consecutive nodes of the parser."""
        return "".join(self._build_one(node) for node in nodes)

    def _build_one(self, node: _Node) -> str:
        name, value = _name(node), node[1]
        if name in _EMPTY:
            return ""
        if name in _CHARACTERS:
            return self._choose(_CHARACTERS[name](value))
        build = _BUILDERS.get(name)
        if build is None:
            raise NoSample(f"texts are not built from the part {name} of its pattern")
        return build(self, value)

    def _build_branch(self, value: Any) -> str:
        return self.build(value[1][self._branch % len(value[1])])

    def _build_group(self, value: Any) -> str:
        text = self.build(value[3])
        self._groups[value[0]] = text
        return text

    def _repeat_group(self, number: int) -> str:
        return self._groups.get(number, "")

    def _build_repeat(self, value: Any) -> str:
        least, _, inner = value
        text, count = self.build(inner), self.counts.get(id(inner), int(least))
        if len(text) * count > _MAX_CHARS:
            raise NoSample(f"its pattern demands more than {_MAX_CHARS:,} characters")
        return text * count

    def _choose(self, members: list[_Node]) -> str:
        """Returns the first character of the order that is in a class, else the first of the class itself."""
        own = (
            chr(value if _name((op, 0)) == "LITERAL" else value[0]) for op, value in members if _name((op, 0)) in _OWN
        )
        allowed = _make_test(members)
        found = next(filter(allowed, self._order), None) or next(filter(allowed, own), None)
        # A class that excludes all common characters, or has only a category such as \s.
        found = found or next(filter(allowed, map(chr, range(1, 0x500))), None)
        if found is None:
            raise NoSample("its pattern has a class without a character")
        return found


_BUILDERS: dict[str, Callable[[_Builder, Any], str]] = {
    "LITERAL": lambda builder, code: chr(code),
    "BRANCH": _Builder._build_branch,
    "SUBPATTERN": _Builder._build_group,
    "GROUPREF": _Builder._repeat_group,
    "MAX_REPEAT": _Builder._build_repeat,
    "MIN_REPEAT": _Builder._build_repeat,
    "POSSESSIVE_REPEAT": _Builder._build_repeat,
    "ATOMIC_GROUP": _Builder.build,
}
_EMPTY = {"AT", "ASSERT", "ASSERT_NOT"}
_OWN = {"LITERAL", "RANGE"}
_CHARACTERS: dict[str, Callable[[Any], list[_Node]]] = {
    "IN": lambda members: list(members),
    "ANY": lambda _: [("NEGATE", None), ("LITERAL", ord("\n"))],
    "NOT_LITERAL": lambda code: [("NEGATE", None), ("LITERAL", code)],
}
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w", "NOT_DIGIT": r"\D", "NOT_SPACE": r"\S", "NOT_WORD": r"\W"}


def _make_test(members: list[_Node]) -> Callable[[str], bool]:
    """Returns a function that tests whether a character is in a class."""

    def is_member(character: str) -> bool:
        code = ord(character)
        for op, value in members:
            name = _name((op, value))
            if name == "LITERAL" and value == code:
                return True
            if name == "RANGE" and value[0] <= code <= value[1]:
                return True
            if name == "CATEGORY" and re.fullmatch(_CATEGORIES[str(value).removeprefix("CATEGORY_")], character):
                return True
        return False

    if members and _name(members[0]) == "NEGATE":
        return lambda character: not is_member(character)
    return is_member


def _name(node: _Node) -> str:
    return str(node[0])


def _inner(node: _Node) -> Iterator[Any]:
    """Yields the lists of nodes within a node."""
    name, value = _name(node), node[1]
    if name == "BRANCH":
        yield from value[1]
    elif name == "SUBPATTERN":
        yield value[3]
    elif name.endswith("_REPEAT"):
        yield value[2]
    elif name in ("ASSERT", "ASSERT_NOT"):
        yield value[1]
    elif name == "ATOMIC_GROUP":
        yield value


def _walk(nodes: Any) -> Iterator[_Node]:
    for node in nodes:
        yield node
        for inner in _inner(node):
            yield from _walk(inner)


def _find_repeats(nodes: Any, inside: bool) -> Iterator[tuple[_Node, bool]]:
    """Yields the repeats of variable number, the outer ones first, and whether each is inside another."""
    for node in nodes:
        varies = _name(node).endswith("_REPEAT") and node[1][0] != node[1][1]
        if varies:
            yield node, inside
        for inner in _inner(node):
            yield from _find_repeats(inner, inside or (varies and node[1][1] > 1))
