"""Computes costs later for records whose price was not known when they were made.

price_search.py  the price of a record, from today's knowledge
repricing.py     computes the costs, and writes them
"""

from app.services.repricing.repricing import RepriceReport, reprice

__all__ = ["RepriceReport", "reprice"]
