"""What stands behind the question mark: read strictly, because a filter that is misspelt would give a wrong report."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from flask import request

from app.errors import BadRequest

# As many characters as the database keeps of a text.
_MOST_CHARACTERS = 200

# Nothing was recorded in others, and some days away from the year 1 or 9999 arithmetic with dates fails.
_YEARS = range(2000, 2200)


def read_arguments(*known: str) -> dict[str, str]:
    """Returns the query's arguments by name, without the empty ones.

    Raises:
        BadRequest: one is not among `known`, stands there twice, or cannot be any value.
    """
    given: dict[str, str] = {}
    for name, values in request.args.lists():
        if name not in known:
            raise BadRequest(
                f"There is no parameter {name[:100]!r} here. There are: {', '.join(known)}.", param=name[:100]
            )
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times. Give it once.", param=name)
        if len(values[0]) > _MOST_CHARACTERS or "\0" in values[0]:
            raise BadRequest(f"{name} must have at most {_MOST_CHARACTERS} characters, none of them NUL.", param=name)
        if values[0]:
            given[name] = values[0]
    return given


def choose(given: dict[str, str], name: str, choices: Collection[str]) -> str | None:
    """Returns the argument `name`, None where it is not given.

    Raises:
        BadRequest: it is none of `choices`.
    """
    value = given.get(name)
    if value is not None and value not in choices:
        raise BadRequest(f"{name} is {value!r}; it must be one of: {', '.join(choices)}.", param=name)
    return value


def read_number(given: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    """Returns the whole number `name`.

    Raises:
        BadRequest: it is none, or not within `least` and `most`.
    """
    text = given.get(name)
    if text is None:
        return default
    # int() also takes "１", "1_0" and " 1", none of which anybody means.
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise BadRequest(f"{name} is {text!r}; it must be a whole number from {least} to {most}.", param=name)
    return int(text)


def read_time(given: dict[str, str], name: str) -> datetime | None:
    """Returns the time `name` in UTC, None where it is not given; one without an offset is UTC already.

    Raises:
        BadRequest: it is not ISO 8601.
    """
    text = given.get(name)
    if text is None:
        return None
    # In a URL a plus sign that is not escaped arrives as a space; the one before the time may be meant.
    text = text[:11] + text[11:].replace(" ", "+")
    try:
        moment = datetime.fromisoformat(text)
        if moment.year in _YEARS:
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except ValueError:
        pass
    raise BadRequest(
        f"{name} is {given[name]!r}; it must be a time in ISO 8601, such as 2026-03-14 or 2026-03-14T15:09:26Z.",
        param=name,
    )
