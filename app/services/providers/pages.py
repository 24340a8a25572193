"""Reads a provider's list of models, in one page or many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.errors import UpstreamError
from app.upstream import UpstreamClient

Page = list[Any]

# A page of 1,000 models takes a second or two; a whole list of 22 MB in one response takes less than this.
PAGE_TIMEOUT_S = 20.0


def fetch_single_page(client: UpstreamClient) -> Iterator[Page]:
    """Fetches a list that comes in one response, and yields its one page.

    Raises:
        UpstreamError: the request failed, or the response is not a list.
    """
    yield read_page(client, client.fetch_json("/models", timeout_s=PAGE_TIMEOUT_S))


def read_page(client: UpstreamClient, document: Any) -> Page:
    """Returns the entries in `{"data": [...]}`.

    Raises:
        UpstreamError: the document has another form.
    """
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise UpstreamError(f"The model list of {client.title} is not a list.")
    page: Page = document["data"]
    return page
