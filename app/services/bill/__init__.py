"""Bills: the figures that providers bill, compared with the gateway's records.

compared.py        the figures, and the possible meanings of a difference
comparison.py      compares both sides by day and model; findings.py: differences beyond the band
fetching.py        fetches a provider's bill and stores it; nightly.py does so in the background
reconciliation.py  the report, read from the database alone
statement.py       the use of keys in a month, for passing the cost on
months.py          months in the form that callers write
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
