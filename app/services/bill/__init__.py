"""The bill: what providers say that they billed, beside what the gateway recorded.

compared.py        the figures, and what a difference can mean
comparison.py      both sides compared by day and model; findings.py: what differs by more than the band
fetching.py        fetches a provider's bill and keeps it; nightly.py does so in the background
reconciliation.py  the report, read from the database alone
statement.py       what keys used in a month, to pass the cost on
months.py          months as callers write them
"""

from app.services.bill.compared import Compared, Finding, Reconciliation
from app.services.bill.fetching import fetch_bill
from app.services.bill.months import MONTH_PATTERN, Month, choose_month, make_month, parse_month
from app.services.bill.nightly import run_if_due, start_bills
from app.services.bill.reconciliation import choose_provider, get_bill_names, select_reconciliation
from app.services.bill.statement import StatedReconciliation, Statement, StatementRow, select_statement

# fmt: off
__all__ = [
    "MONTH_PATTERN", "Compared", "Finding", "Month", "Reconciliation", "StatedReconciliation", "Statement",
    "StatementRow", "choose_month", "choose_provider", "fetch_bill", "get_bill_names", "make_month",
    "parse_month", "run_if_due", "select_reconciliation", "select_statement", "start_bills",
]
# fmt: on
