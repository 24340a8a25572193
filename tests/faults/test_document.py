"""docs/faults.md agrees with the observations of the tests; UPDATE_FAULTS=1 rewrites it."""

from __future__ import annotations

import os

import pytest

from tests.faults.cases import SECTIONS
from tests.faults.clients import NO_CURL
from tests.faults.leaving import Left
from tests.faults.nginx import NO_NGINX
from tests.faults.observe import Observation
from tests.faults.own import Ordeal
from tests.faults.table import departure_line, event_line, line_of, render
from tests.faults.translated import APIS, Translated, translated_line
from tests.support.soak import soak_only
from tests.support.tree import ROOT

PAGE = ROOT / "docs" / "faults.md"


@soak_only("faults/test_provider.py::test_the_row_says_what_happened")
@pytest.mark.skipif(bool(NO_NGINX or NO_CURL), reason=NO_NGINX or NO_CURL)
def test_the_page_says_what_was_seen(
    observations: dict[str, Observation],
    translated: dict[str, dict[str, Translated]],
    departures: dict[str, Left],
    ordeal: Ordeal,
) -> None:
    sections = {title: [line_of(observations[fault.name]) for fault in faults] for title, faults in SECTIONS.items()}
    for api in APIS:
        sections[api.title] = [translated_line(api, seen) for seen in translated[api.sdk].values()]
    sections["The client"] = [departure_line(left) for left in departures.values()]
    sections["The gateway, its database, its catalogs"] = [event_line(event) for event in ordeal.events]
    page = render(sections)
    if os.environ.get("UPDATE_FAULTS"):
        PAGE.write_text(page)
    difference = "behaviour and docs/faults.md differ; UPDATE_FAULTS=1 writes what is seen"
    assert _without_races(page) == _without_races(PAGE.read_text()), difference


def _without_races(page: str) -> list[list[str]]:
    """Returns the page's lines without the two columns that depend on which side ends first.

    If both the provider and the gateway end a connection, either may appear to hang up, and on a busy machine a fault
    that needs no timeout may take as long as one.
    """
    rows = [line.split(" | ") for line in page.splitlines()]
    return [[cell for number, cell in enumerate(row) if len(row) != 8 or number not in {5, 7}] for row in rows]
