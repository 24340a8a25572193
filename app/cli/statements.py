"""A statement as CSV, and as a page for printing."""

from __future__ import annotations

from collections.abc import Iterator

from app.layout import render_text
from app.services.bill import StatedReconciliation, Statement, StatementRow
from app.services.reports import encode_table

# The columns of lines and totals, by the names of their fields.
_FIELDS = (
    "key",
    "key_name",
    "holder",
    "day",
    "gateway",
    "model",
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "total_cost",
    "estimated_cost",
    "sum_cost",
    "unpriced_requests",
)
_COLUMNS = ("kind", "of", "name", "month", *_FIELDS, "note")


def encode_statement_csv(statement: Statement) -> bytes:
    """Returns a statement as CSV: a row for each line, then the total, then each provider's bill as a note."""
    return encode_table([_COLUMNS, *_make_rows(statement)])


def _make_rows(statement: Statement) -> Iterator[list[object]]:
    whose = [statement.of, statement.name, statement.month]
    for line in statement.lines:
        yield ["line", *whose, *_get_fields(line), None]
    yield ["total", *whose, *_get_fields(statement.total), None if statement.is_final else "The month is not over."]
    for each in statement.reconciliations:
        empty = [each.gateway if name == "gateway" else None for name in _FIELDS]
        yield ["reconciliation", *whose, *empty, describe_reconciliation(each)]


def _get_fields(row: StatementRow) -> list[object]:
    return [getattr(row, name) for name in _FIELDS]


def describe_reconciliation(row: StatedReconciliation) -> str:
    """Returns in one sentence how a provider's bill compares with all records of the month."""
    if row.is_in_band is None:
        return row.problem or "No day of the month is settled on both sides."
    captures = [
        f"{share:.2%} of the {name}"
        for name, share in (("tokens", row.token_capture), ("cost", row.cost_capture))
        if share is not None
    ]
    verdict = "within the band" if row.is_in_band else "outside of the band"
    found = f"{row.findings} difference{'' if row.findings == 1 else 's'}"
    days = f"{row.settled_days} settled day{'' if row.settled_days == 1 else 's'}"
    captured = " and ".join(captures) or "nothing"
    return f"The records have {captured} that {row.account or row.gateway} was billed ({days}): {verdict}, {found}."


def render_statement(statement: Statement) -> str:
    """Returns a statement as a page of HTML that needs no other file, to be printed or saved as PDF."""
    notes = [(each.gateway, describe_reconciliation(each)) for each in statement.reconciliations]
    return render_text("statement.html", statement=statement, notes=notes)
