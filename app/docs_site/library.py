"""All pages as HTML, each rendered at its first use, and the search in them."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from markupsafe import Markup, escape

from app.docs_site.pages import PAGES, Page
from app.docs_site.rendering import RenderedPage, render
from app.runtime import Component, Runtime
from app.yielding import PAUSE_S

MAX_RESULTS = 20
MAX_WORDS = 8
_EXCERPT_CHARACTERS = 220

_WORD = re.compile(r"[\w./:-]+")


class Hit(NamedTuple):
    """A section that was found: its page, heading and anchor, and an excerpt with the words marked."""

    page: Page
    heading: str
    anchor: str
    excerpt: Markup


class _Entry(NamedTuple):
    """A section in the index; `folded` and `folded_heading` are in lower case."""

    page: Page
    heading: str
    anchor: str
    text: str
    folded_heading: str
    folded: str


class Library(Component):
    """The pages of this process."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._rendered: dict[str, RenderedPage] = {}
        self._index: list[_Entry] = []

    def get(self, page: Page) -> RenderedPage:
        """Returns a page as HTML.

        Raises:
            OSError: its file is missing.
        """
        if page.slug not in self._rendered:
            self._rendered[page.slug] = render(page, page.path.read_text())
        return self._rendered[page.slug]

    def search(self, query: str) -> list[Hit]:
        """Returns the sections with all words, the best first: those with the words in the heading.

        Args:
            query: the search text; only its first MAX_WORDS words count.
        """
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[:MAX_WORDS]
        if not words:
            return []
        found = [
            (_rate(entry, words), entry)
            for entry in self._get_index()
            if all(word in entry.folded or word in entry.folded_heading for word in words)
        ]
        found.sort(key=lambda each: -each[0])
        return [
            Hit(entry.page, entry.heading, entry.anchor, _make_excerpt(entry, words))
            for _, entry in found[:MAX_RESULTS]
        ]

    def _get_index(self) -> list[_Entry]:
        if not self._index:
            index: list[_Entry] = []
            for page in PAGES.values():
                index += [
                    _Entry(page, each.heading.text, each.heading.anchor, each.text, title, each.text.lower())
                    for each in self.get(page).sections
                    for title in [f"{page.title} {each.heading.text}".lower()]
                ]
                time.sleep(PAUSE_S)  # A page takes some milliseconds to render, and streams get their turn.
            self._index = index
        return self._index


def _rate(entry: _Entry, words: list[str]) -> float:
    in_heading = sum(word in entry.folded_heading for word in words)
    often = sum(min(entry.folded.count(word), 5) for word in words)
    # A short section with the words is more relevant than a long one.
    return 10 * in_heading + often / (1 + len(entry.folded) / 4000)


def _make_excerpt(entry: _Entry, words: list[str]) -> Markup:
    at = min((place for word in words if (place := entry.folded.find(word)) >= 0), default=0)
    start = max(0, at - _EXCERPT_CHARACTERS // 3)
    start = entry.text.find(" ", start) + 1 if start else 0
    text = entry.text[start : start + _EXCERPT_CHARACTERS]
    pieces = re.split("(" + "|".join(map(re.escape, words)) + ")", text, flags=re.IGNORECASE)
    marked = Markup("").join(
        Markup("<mark>{}</mark>").format(piece) if number % 2 else escape(piece) for number, piece in enumerate(pieces)
    )
    return Markup("{}{}{}").format("… " if start else "", marked, " …" if len(entry.text) > start + len(text) else "")
