"""The pages of the documentation: the README and docs/*.md of this checkout, so they match the running version."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from app.config import ROOT


class Page(NamedTuple):
    """A page.

    Attributes:
        slug: its address below `/docs/`; empty for the first page.
        title: its name in the navigation.
        file: the Markdown, below the root of the checkout.
    """

    slug: str
    title: str
    file: str

    @property
    def path(self) -> Path:
        """The path of its Markdown."""
        return ROOT / self.file


def _page(name: str, title: str) -> Page:
    return Page(name, title, f"docs/{name}.md")


# Group → its pages, in the order of the navigation.
GROUPS: dict[str, tuple[Page, ...]] = {
    "Begin": (Page("", "Start", "README.md"), _page("concepts", "Concepts"), _page("dashboard", "Dashboard")),
    "Call it": (
        _page("endpoints", "Endpoints"),
        _page("clients", "Clients"),
        _page("errors", "Errors"),
        _page("idempotency", "Repeated requests"),
        _page("routing", "Routing"),
        _page("catalog", "Models and prices over time"),
        _page("sandbox", "Sandbox"),
    ),
    "Keys and records": (
        _page("limits", "Keys and limits"),
        _page("activity", "Records and statistics"),
        _page("bill", "The bill"),
    ),
    "Operate": (
        _page("deploy", "Deploy"),
        _page("hosts", "Several hosts"),
        _page("operate", "Operate at night"),
        _page("upgrade", "Upgrade"),
        _page("backup", "Backup, restore, failover"),
        _page("metrics", "Metrics"),
        _page("security", "Security"),
        _page("faults", "Faults"),
    ),
    "Inside": (_page("design", "Design"), _page("benchmarks", "Benchmarks")),
}

PAGES: dict[str, Page] = {page.slug: page for pages in GROUPS.values() for page in pages}
_BY_FILE = {page.file: page for page in PAGES.values()}

# Only files below these directories are shown beside the pages: other linked files, such as .env, may hold secrets.
_OPEN_DIRECTORIES = ("docs/", "deploy/")


def find_page(file: str) -> Page | None:
    """Returns the page of a file below the root of the checkout; None if there is none."""
    return _BY_FILE.get(file)


def is_open_file(file: str) -> bool:
    """Returns whether a file below the root of the checkout, other than a page, may be shown."""
    return file.startswith(_OPEN_DIRECTORIES) and (ROOT / file).is_file()
