"""The catalog's memory: changes of providers' lists, stored in the database.

facts.py    the stored facts of a model, and which of their differences are changes
keeping.py  compares a list with the stored one, and stores the difference
memory.py   does so in the background, and warns of price rises
changes.py  the changes in the form of the API            atom.py  and as a feed
prices.py   the price of a model at a past time
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
