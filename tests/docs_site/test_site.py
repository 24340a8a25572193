"""The served documentation: every page, every link, the search, and no file that must stay private."""

from __future__ import annotations

import functools
import gzip
import re
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import ROOT, load_settings
from app.docs_site import pages, routes
from app.docs_site.pages import PAGES, Page
from app.docs_site.rendering import RenderedPage, render, resolve_link
from app.openapi import OPERATIONS, to_template
from app.runtime import use_settings


@functools.cache
def rendered_page(slug: str) -> RenderedPage:
    """Returns a page as it is served."""
    return render(PAGES[slug], PAGES[slug].path.read_text())


@pytest.fixture
def site() -> Iterator[FlaskClient]:
    """An application in this process, which needs no database for these paths."""
    yield create_app(load_settings({})).test_client()
    use_settings(None)


def test_every_page_of_the_checkout_is_in_the_navigation() -> None:
    files = {f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")} | {"README.md"}
    assert {page.file for page in PAGES.values()} == files


@pytest.mark.parametrize("slug", PAGES, ids=lambda slug: slug or "start")
def test_every_link_leads_somewhere(slug: str) -> None:
    rendered = rendered_page(slug)
    for target in re.findall(r'(?:href|src)="([^"]*)"', rendered.html):
        path, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        if path.startswith("files/"):
            assert (ROOT / path.removeprefix("files/")).is_file(), target
            continue
        other = rendered_page(slug if not path else path.removeprefix("./"))
        assert not anchor or anchor in {each.anchor for each in other.headings}, target


def test_links_to_files_that_are_not_shown_name_files_that_there_are() -> None:
    for page in PAGES.values():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.path.read_text()):
            if not target.startswith("http"):
                assert (page.path.parent / target).exists(), (page.file, target)


def test_paths_on_the_pages_are_paths_of_the_gateway() -> None:
    known = {to_template(operation.path) for operation in OPERATIONS}
    for page in PAGES.values():
        for path in re.findall(r"http://localhost:8000(/[^\s'\"?`)|]+)", page.path.read_text()):
            if path.startswith(("/v1/…", "/docs", "/dashboard")) or path in {"/v1", "/v1/"}:
                continue  # Base URLs of SDKs, and pages.
            assert any(re.fullmatch(re.sub(r"\{\w+\}", ".+", each), path) for each in known), (page.file, path)


def test_a_page_has_its_headings_links_and_code(site: FlaskClient) -> None:
    shown = site.get("/docs/limits")
    assert shown.status_code == 200
    text = shown.get_data(as_text=True)
    assert '<h2 id="give-a-key-away">' in text and 'href="../docs/limits" aria-current="page"' in text
    assert '<div class="copyable"><pre tabindex="0">' in text and "Keys and limits" in text
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in shown.headers["content-security-policy"]
    assert "<!--" not in text and "&lt;!--" not in text
    assert site.get("/docs/limits.md").headers["location"] == "../docs/limits"
    assert site.get("/docs").headers["location"] == "./docs/"


def test_html_in_markdown_is_text_and_scripts_are_no_links() -> None:
    page = Page("x", "X", "docs/x.md")
    html = render(page, "# X\n\n<script>alert(1)</script> [a](javascript:alert(1)) [b](https://example.com)").html
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert re.findall(r'href="([^"]*)"', html) == ["https://example.com"] and 'rel="noreferrer"' in html


def test_links_lead_to_pages_and_open_files_only() -> None:
    start, limits = PAGES[""], PAGES["limits"]
    assert resolve_link("docs/limits.md#http", start) == "limits#http"
    assert resolve_link("../README.md", limits) == "./"
    assert resolve_link("../deploy/nginx.conf", limits) == "files/deploy/nginx.conf"
    assert resolve_link(".env", start) is None and resolve_link("../../etc/passwd", limits) is None


@pytest.mark.parametrize("path", [".env", "docs/../.env", "deploy/../wsgi.py", "/etc/passwd", "docs", "app/config.py"])
def test_other_files_are_not_shown(site: FlaskClient, path: str) -> None:
    assert site.get(f"/docs/files/{path}").status_code == 404


def test_files_that_a_page_names_are_shown_as_they_are(site: FlaskClient) -> None:
    shown = site.get("/docs/files/deploy/nginx.conf")
    assert (shown.status_code, shown.content_type) == (200, "text/plain; charset=utf-8")
    assert shown.get_data() == (ROOT / "deploy" / "nginx.conf").read_bytes()
    assert site.get("/docs/files/docs/benchmarks.svg").content_type == "image/svg+xml"


def test_the_search_finds_words_in_all_pages(site: FlaskClient) -> None:
    first = site.get("/docs/search?q=BUDGET_outage").get_data(as_text=True)
    assert "<mark>BUDGET_OUTAGE</mark>" in first and 'href="../docs/#settings"' in first
    # Sections with the words in their headings come first.
    best = site.get("/docs/search?q=what+a+key+sees").get_data(as_text=True)
    assert re.findall(r'<span class="where">.*?</span>(.*?)</a>', best)[0] == "What a key sees of itself"
    for query in ("", "   ", "\x00", "%"):
        assert site.get("/docs/search", query_string={"q": query}).status_code == 200
    none = site.get("/docs/search?q=<b>zebra</b>+xylophone").get_data(as_text=True)
    assert "Nothing has all of these words" in none and "&lt;b&gt;zebra" in none and "<b>zebra" not in none


def test_swagger_ui_is_served_from_here(site: FlaskClient) -> None:
    text = site.get("/docs/api").get_data(as_text=True)
    files = re.findall(r'(?:src|href)="\.\./(docs/api/[^"]+)"', text)
    assert [file.rpartition("/")[2] for file in files] == ["swagger-ui.css", "swagger-ui-bundle.js"]
    for file in files:
        plain = site.get(f"/{file}")
        packed = site.get(f"/{file}", headers={"accept-encoding": "gzip"})
        assert plain.status_code == 200 and "immutable" in plain.headers["cache-control"]
        assert gzip.decompress(packed.data) == plain.data and len(packed.data) < len(plain.data) / 2
    assert site.get("/docs/api/1/swagger-ui.css").status_code == 404
    assert not re.search(r'(?:src|href)="https?:', text)


def test_what_is_not_there_is_a_page_that_says_so(site: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = site.get("/docs/nowhere")
    assert missing.status_code == 404 and "There is no such page" in missing.get_data(as_text=True)
    monkeypatch.setitem(pages.PAGES, "gone", Page("gone", "Gone", "docs/gone.md"))
    assert routes.PAGES is pages.PAGES
    gone = site.get("/docs/gone")
    assert gone.status_code == 404 and "Run it from a clone" in gone.get_data(as_text=True)
