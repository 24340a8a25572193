"""Query strings are read into Structs; the error for a wrong value says which values are valid."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated
from urllib.parse import urlencode

import msgspec
import pytest
from flask import Flask

from app.errors import BadRequest
from app.web import matching, one_of, read_query

NO_GATEWAY = "No {value!r}. Use {choices}."


class Sample(msgspec.Struct, kw_only=True):
    """One parameter of each type."""

    start: datetime | None = msgspec.field(name="from", default=None)
    day: date | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    kind: Annotated[str, one_of(("b", "a"))] | None = None
    gateway: Annotated[str, one_of(("x", "y"), message=NO_GATEWAY, code="unknown_gateway", any_case=True)] = "x"
    search: Annotated[str, msgspec.Meta(max_length=5)] = ""
    stream: bool | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] | None = None
    code: Annotated[str, matching("^[0-9]{3}$", "must be three digits")] | None = None
    kinds: tuple[Annotated[str, one_of(("b", "a"))], ...] | None = None


app = Flask(__name__)


def read(query: str | dict[str, str] | list[tuple[str, str]], *, refuse_empty_numbers: bool = False) -> Sample:
    """Returns the result of `read_query` for a query string."""
    text = query if isinstance(query, str) else urlencode(query)
    with app.test_request_context("/?" + text):
        return read_query(Sample, refuse_empty_numbers=refuse_empty_numbers)


def refused(query: str | dict[str, str] | list[tuple[str, str]], *, refuse_empty_numbers: bool = False) -> BadRequest:
    """Returns the error that `read_query` raises."""
    with pytest.raises(BadRequest) as caught:
        read(query, refuse_empty_numbers=refuse_empty_numbers)
    return caught.value


def test_a_missing_or_empty_parameter_has_its_default() -> None:
    assert read("") == read("limit=&kind=&from=&gateway=") == Sample()


def test_values_have_the_types_of_their_fields() -> None:
    given = read({"from": "2026-03-14T15:09:26+01:00", "day": "2026-03-14", "limit": "7", "kind": "a", "search": "s"})
    moment = datetime(2026, 3, 14, 14, 9, 26, tzinfo=UTC)
    assert given == Sample(start=moment, day=date(2026, 3, 14), limit=7, kind="a", search="s")
    given = read("stream=False&seconds=0.25&code=404&kinds=a,b")
    assert given == Sample(stream=False, seconds=0.25, code="404", kinds=("a", "b")) and read("kinds=a").kinds == ("a",)


@pytest.mark.parametrize("text", ["2026-03-14T15:09:26%2B01:00", "2026-03-14T15:09:26+01:00", "2026-03-14 14:09:26"])
def test_a_plus_sign_that_arrives_as_a_space_is_still_an_offset(text: str) -> None:
    assert read(f"from={text}").start == datetime(2026, 3, 14, 14, 9, 26, tzinfo=UTC)


MESSAGES = {
    "limit=x": ("limit", "`limit` is 'x'; it must be a whole number from 1 to 1000."),
    "limit=1001": ("limit", "`limit` is '1001'; it must be a whole number from 1 to 1000."),
    "limit=%EF%BC%91": ("limit", "`limit` is '１'; it must be a whole number from 1 to 1000."),
    "kind=c": ("kind", "`kind` is 'c'; it must be one of: b, a."),
    "gateway=z": ("gateway", "No 'z'. Use x, y."),
    "search=longer": ("search", "`search` may have at most 5 characters."),
    "from=soon": (
        "from",
        "`from` is 'soon'; it must be a time in ISO 8601, such as 2026-03-14 or 2026-03-14T15:09:26Z.",
    ),
    "from=0001-01-01": (
        "from",
        "`from` is '0001-01-01'; it must be a time in ISO 8601, such as 2026-03-14 or 2026-03-14T15:09:26Z.",
    ),
    "stream=1": ("stream", "`stream` is '1'; it must be one of: true, false."),
    "seconds=nan": ("seconds", "`seconds` is 'nan'; it must be a number from 0 to 60."),
    "seconds=60.1": ("seconds", "`seconds` is '60.1'; it must be a number from 0 to 60."),
    "code=1234": ("code", "`code` is '1234'; it must be three digits."),
    "kinds=a,c": ("kinds", "`kinds` is 'c'; it must be one of: b, a."),
    "kinds=a,": ("kinds", "`kinds` is ''; it must be one of: b, a."),
    "day=2026-03-14T12:00": ("day", "`day` must be a whole day (UTC), such as 2026-03-14."),
}


@pytest.mark.parametrize("query", MESSAGES)
def test_the_error_for_a_wrong_value_says_what_it_must_be(query: str) -> None:
    error = refused(query)
    assert (error.param, error.message) == MESSAGES[query]
    assert error.code == ("unknown_gateway" if query == "gateway=z" else "invalid_parameter")


def test_a_choice_may_be_given_in_any_case_where_that_is_declared() -> None:
    assert read("gateway=Y") == read("gateway=y") == Sample(gateway="y")
    assert refused("kind=B").message == "`kind` is 'B'; it must be one of: b, a."


def test_a_path_without_parameters_says_so() -> None:
    class Nothing(msgspec.Struct):
        """No parameters."""

    with app.test_request_context("/?x=1"), pytest.raises(BadRequest) as caught:
        read_query(Nothing)
    assert (caught.value.param, caught.value.message) == ("x", "Unknown parameter 'x'. This path takes none.")


def test_unknown_and_repeated_parameters_are_refused() -> None:
    unknown = "Unknown parameter 'page'. Use: from, day, limit, kind, gateway, search, stream, seconds, code, kinds."
    error = refused("page=1")
    assert (error.param, error.code, error.message) == ("page", "unknown_parameter", unknown)
    assert refused("limit=1&limit=2").message == "`limit` is given 2 times. Give it once."
    for query in ({"search": "\0"}, {"search": "x" * 301}):
        assert refused(query).message == "`search` must have at most 300 characters, none of them NUL."


def test_an_empty_number_is_refused_if_asked_for() -> None:
    assert read("limit=1&gateway=", refuse_empty_numbers=True) == Sample(limit=1)
    assert refused("limit=", refuse_empty_numbers=True).message == MESSAGES["limit=x"][1].replace("x", "")


@pytest.mark.parametrize("digits", [301, 5_000])
def test_a_number_of_any_length_is_refused_with_a_short_message(digits: int) -> None:
    error = refused({"limit": "1" * digits})
    assert error.param == "limit" and len(error.message) < 300
