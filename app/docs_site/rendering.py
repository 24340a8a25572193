"""Markdown → HTML. Raw HTML is shown as text, links lead to pages of this site, and headings can be linked to."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from app.docs_site.pages import Page, find_page, is_open_file

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# Notes for the programs that write parts of a page.
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


class Heading(NamedTuple):
    """A heading: its level (1 is the page's title), its text, and its anchor."""

    level: int
    text: str
    anchor: str


class Section(NamedTuple):
    """A heading with the plain text below it, up to the next heading."""

    heading: Heading
    text: str


class RenderedPage(NamedTuple):
    """A page as HTML without its title, its headings, and its sections for the search."""

    title: str
    html: str
    headings: list[Heading]
    sections: list[Section]


@cache
def _get_parser() -> MarkdownIt:
    # Imported here because the import takes 20 ms, which every start of a worker would pay.
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def render(page: Page, source: str) -> RenderedPage:
    """Returns a page as HTML.

    Args:
        page: the page; its links are relative to its file.
        source: its Markdown, which begins with a heading.
    """
    parser = _get_parser()
    tokens = parser.parse(_COMMENT.sub("", source))
    headings = _name_headings(tokens)
    _rewrite_links(tokens, page)
    sections = list(_split(tokens, headings))
    body = tokens[3:]  # Without the title, which is in the frame of the page.
    numbers = count(1)
    html = "".join(_wrap(parser, group, numbers) for group in _group(body))
    return RenderedPage(headings[0].text, html, headings[1:], sections)


def _name_headings(tokens: Sequence[Token]) -> list[Heading]:
    """Gives each heading an anchor in GitHub's form, so that links work in both places."""
    headings: list[Heading] = []
    seen: dict[str, int] = {}
    for opening, inline in zip(tokens, tokens[1:], strict=False):
        if opening.type != "heading_open":
            continue
        text = _to_text(inline)
        anchor = _NOT_IN_ANCHORS.sub("", text.lower()).replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        anchor = f"{anchor}-{count}" if count else anchor
        opening.attrSet("id", anchor)
        headings.append(Heading(int(opening.tag[1]), text, anchor))
    return headings


def _to_text(inline: Token) -> str:
    return "".join(" " if each.type == "softbreak" else each.content for each in inline.children or ())


def _rewrite_links(tokens: Sequence[Token], page: Page) -> None:
    for inline in tokens:
        children = inline.children or []
        for at, token in enumerate(children):
            if token.type == "link_open":
                _rewrite_link(token, children[at + 1], page)
            elif token.type == "image":
                token.attrSet("src", resolve_link(str(token.attrs["src"]), page) or "")
                token.attrSet("loading", "lazy")


def _rewrite_link(token: Token, text: Token, page: Page) -> None:
    target = str(token.attrs["href"])
    linked = find_page(_find_file(urlsplit(target).path, page))
    if linked is not None and text.content == urlsplit(target).path:
        text.content = linked.title  # Readers of the site see titles, not files.
    resolved = resolve_link(target, page)
    if resolved is None:  # A file of the checkout that is not shown: its name stays as text.
        token.tag = "span"
        token.attrs = {}
    else:
        token.attrSet("href", resolved)
    if urlsplit(target).scheme:
        token.attrSet("rel", "noreferrer")


def resolve_link(target: str, page: Page) -> str | None:
    """Returns the address for a link in a page's Markdown, relative to `/docs/`; None for a file that is not shown."""
    parts = urlsplit(target)
    if parts.scheme or not parts.path:
        return target
    file = _find_file(parts.path, page)
    anchor = f"#{parts.fragment}" if parts.fragment else ""
    found = find_page(file)
    if found is not None:
        return (found.slug or "./") + anchor
    return f"files/{file}" if is_open_file(file) else None


def _find_file(path: str, page: Page) -> str:
    """Returns the path below the root of the checkout for a path in a link of a page."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page.file), path))


def _split(tokens: Sequence[Token], headings: Sequence[Heading]) -> Iterator[Section]:
    """Yields the sections of a page."""
    number = -1
    texts: list[str] = []
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            if number >= 0:
                yield Section(headings[number], " ".join(texts))
            number, texts = number + 1, []
        elif token.type == "inline" and tokens[at - 1].type != "heading_open":
            texts.append(_to_text(token))
        elif token.type in {"fence", "code_block"}:
            texts.append(" ".join(token.content.split()))
    yield Section(headings[number], " ".join(texts))


def _group(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Yields the tokens of one block after another."""
    group: list[Token] = []
    depth = 0
    for token in tokens:
        group.append(token)
        depth += token.nesting
        if depth == 0:
            yield group
            group = []


def _wrap(parser: MarkdownIt, tokens: list[Token], numbers: Iterator[int]) -> str:
    """Returns a block as HTML; code can be copied, and tables, which get the numbers, scroll in their own box."""
    first = tokens[0]
    if first.type == "heading_open":
        # The link is for people with a pointer; a screen reader has the heading itself.
        anchor = f'<a class="anchor" href="#{first.attrs["id"]}" tabindex="-1" aria-hidden="true">#</a>'
        html: str = parser.renderer.render(tokens, parser.options, {})
        return html.replace(f"</{first.tag}>", f"{anchor}</{first.tag}>")
    html = parser.renderer.render(tokens, parser.options, {})
    if first.type == "table_open":
        # A screen reader lists scrollable elements by name, and reads out an empty heading.
        html = html.replace("<th></th>", "<td></td>")
        return f'<div class="scroll" tabindex="0" role="region" aria-label="Table {next(numbers)}">{html}</div>\n'
    html = html.replace("<pre>", '<div class="copyable"><pre tabindex="0">').replace("</pre>", "</pre></div>")
    return html
