"""The catalog's memory: what providers' lists said, kept in the database when it changes.

facts.py    what is kept of a model, and what of it is a change
keeping.py  compares a list with the kept one, and keeps the difference
memory.py   does so in the background, and warns of rises of prices
changes.py  the changes as the API shows them           atom.py  and as a feed
prices.py   what a model cost at a time
"""

from app.services.catalog_memory.atom import CONTENT_TYPE as ATOM
from app.services.catalog_memory.atom import encode_feed
from app.services.catalog_memory.changes import CHANGE_KINDS, MAX_PAGE_CHANGES, ChangeFilter, select_changes_page
from app.services.catalog_memory.memory import start_catalog_memory
from app.services.catalog_memory.prices import KnownPrice, find_price_at, select_known_prices

__all__ = [
    "ATOM", "CHANGE_KINDS", "MAX_PAGE_CHANGES", "ChangeFilter", "KnownPrice", "encode_feed", "find_price_at",
    "select_changes_page", "select_known_prices", "start_catalog_memory",
]  # fmt: skip
