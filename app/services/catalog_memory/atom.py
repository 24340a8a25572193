"""The changes of providers' lists as an Atom feed (RFC 4287), for readers of feeds and for chats that post them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from xml.sax.saxutils import escape, quoteattr

from app.services.catalog_memory.changes import CatalogChange, ChangesPage
from app.services.catalog_memory.facts import PRICE_NAMES

CONTENT_TYPE = "application/atom+xml"

_ID = "urn:llm-gateway:catalog"

# Characters that XML 1.0 cannot contain, even escaped. Providers choose the model names.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_LABELS = {"prompt": "prompt", "completion": "completion", "input_cache_read": "cached prompt"}


def encode_feed(page: ChangesPage, address: str) -> bytes:
    """Returns a feed with an entry for each change of the page.

    Args:
        page: the changes, newest first.
        address: the address of the feed itself.
    """
    updated = page.data[0].at if page.data else datetime(2026, 1, 1, tzinfo=UTC)
    entries = "".join(_make_entry(change) for change in page.data)
    feed = (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">\n'
        f"<id>{_ID}</id>\n<title>Models and prices</title>\n<updated>{_format(updated)}</updated>\n"
        f'<author><name>LLM gateway</name></author>\n<link rel="self" href={quoteattr(_clean(address))}/>\n'
        f"{entries}</feed>\n"
    )
    return feed.encode()


def _make_entry(change: CatalogChange) -> str:
    return (
        f"<entry>\n<id>{_ID}:{change.id}</id>\n<title>{_text(_make_title(change))}</title>\n"
        f"<updated>{_format(change.at)}</updated>\n<category term={quoteattr(change.kind)}/>\n"
        f'<content type="text">{_text(describe(change))}</content>\n</entry>\n'
    )


def _make_title(change: CatalogChange) -> str:
    return f"{change.gateway}: {change.model}: {change.kind}"


def describe(change: CatalogChange) -> str:
    """Returns a change in words: `prompt 1.4 → 1.6 USD per million tokens`."""
    before, after = change.before or {}, change.after or {}
    if change.kind in {"added", "removed"}:
        facts = after or before
        said = [f"{_LABELS[name]} {_per_million(facts[name])}" for name in PRICE_NAMES if facts.get(name)]
        price = f"{', '.join(said)} USD per million tokens" if said else "price unknown"
        return f"{change.kind}; {price}; context {facts.get('context_length') or 'unknown'}"
    parts = []
    for name in after:
        if name == "price_source" or before.get(name) == after.get(name):
            continue
        is_price = name in PRICE_NAMES
        values = [_per_million(each) if is_price else each or "unknown" for each in (before.get(name), after[name])]
        parts.append(f"{_LABELS.get(name, name)} {values[0]} → {values[1]}{' USD per million tokens' * is_price}")
    return "; ".join(parts)


def _per_million(price: str | None) -> str:
    return "unknown" if price is None else format((Decimal(price) * 1_000_000).normalize(), "f")


def _format(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(text: str) -> str:
    return escape(_clean(text))


def _clean(text: str) -> str:
    return _NO_XML.sub("?", text)
