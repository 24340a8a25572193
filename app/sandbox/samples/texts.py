"""Texts within the length, format and pattern of a schema."""

from collections.abc import Callable, Iterator
from typing import Any

from app.sandbox.samples.errors import NoSample
from app.sandbox.samples.formats import make_formatted
from app.sandbox.samples.patterns import make_matches

# Characters; a schema that requires more is refused.
_MAX_CHARS = 10_000
# The number of texts that are tried for a pattern.
_MAX_TRIES = 60


def make_text(schema: dict[str, Any], word: str, variant: int, fits: Callable[[str], bool]) -> str:
    """Returns a text: `word`, padded with dots or cut, if the schema allows it.

    Args:
        schema: has no combinators.
        word: the text if there are no other requirements.
        variant: gives another text for each number.
        fits: whether a text fits the schema.

    Raises:
        NoSample: no text is found.
    """
    low, high = schema.get("minLength", 0), schema.get("maxLength", _MAX_CHARS)
    if low > _MAX_CHARS:
        raise NoSample(f"a text of more than {_MAX_CHARS:,} characters is demanded")
    for tries, text in enumerate(_propose(schema, word, variant, int(low), int(high))):
        if fits(text):
            return text
        if tries == _MAX_TRIES:
            break
    raise NoSample(_explain(schema))


def _propose(schema: dict[str, Any], word: str, variant: int, low: int, high: int) -> Iterator[str]:
    formatted = make_formatted(str(schema.get("format")), variant, low)
    if formatted is not None:
        yield formatted
    elif "format" not in schema or "pattern" not in schema:
        yield _make_plain(word, variant, low, high)
    if "pattern" in schema:
        if variant == 0:
            yield word
        yield from make_matches(schema["pattern"], low, high, variant)
    for part in schema.get("allOf", ()):
        if "pattern" in part:
            yield from make_matches(part["pattern"], low, high, variant)
    # A schema may forbid the word itself.
    yield _make_plain(word, variant + 1, low, high)


def _make_plain(word: str, variant: int, low: int, high: int) -> str:
    number = str(variant) if variant else ""
    return (word[: max(0, high - len(number))] + number).ljust(low, ".")[:high]


def _explain(schema: dict[str, Any]) -> str:
    demanded = ", ".join(
        f"{name} {schema[name]}" for name in ("format", "pattern", "minLength", "maxLength", "not") if name in schema
    )
    return f"no text was found for {demanded or 'it'} (one of `examples` would be taken, if it fits)"
