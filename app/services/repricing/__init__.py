"""Costs of records whose price was not known when they were made, computed later.

price_search.py  the price of a record, from what is known now
repricing.py     computes the costs, and writes them
"""

from app.services.repricing.repricing import RepriceReport, reprice

__all__ = ["RepriceReport", "reprice"]
