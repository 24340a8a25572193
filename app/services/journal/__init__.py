"""Records of requests, written to the local disk first and then shipped to PostgreSQL.

    lifecycle.py        the journal of a process: records requests, ships the records, reports its state
    integrity.py        the outcome of all requests, and the workers that this covers
    record.py           the record of a request, and its limits
    recorder.py         counts requests and writes their lines
    segment_writer.py, segment_reader.py, segment_format.py   the files
    delivery.py         writes rows and a ledger line to PostgreSQL in one statement
    repair.py           makes refused rows acceptable to PostgreSQL
    shipper.py          delivers this process's rows          orphans.py   and a dead worker's
    orphan_adopter.py   finds the journals of dead workers
    folder.py           folds the counts of delivered rows into the sums
    retry_links.py      links the retries of SDKs to their originals
    registration.py     tells the registry that this worker lives, or how it ended
    boot.py             the boot of its host in which a worker ran
    lease_closing.py    returns the unspent draws of an ended worker to their budgets
    orphan_backlog.py   measures the journals that dead workers have left
    kept.py             delivered journals, for a database that is restored
    hosts.py            the hosts by their last report
    adoption.py         delivers the journals of another host, by a command

A record survives the death of its process by any signal, and any outage of PostgreSQL. It does not survive a power cut
within the half minute before the kernel writes it to the disk, or the loss of the disk.
"""

from app.services.journal.adoption import AdoptedJournal, adopt_journals, is_journal_directory, list_journals
from app.services.journal.hosts import HostReport, describe_gone_hosts, describe_other_directory, select_host_reports
from app.services.journal.integrity import Balance, select_balance, select_integrity_report
from app.services.journal.lifecycle import Journal, JournalStatus, get_journal_status, start_journal, stop_journal
from app.services.journal.record import MAX_MESSAGE_CHARACTERS, ActivityRecord, make_request_id

__all__ = [
    "MAX_MESSAGE_CHARACTERS", "ActivityRecord", "AdoptedJournal", "Balance", "HostReport", "Journal", "JournalStatus",
    "adopt_journals", "describe_gone_hosts", "describe_other_directory", "get_journal_status", "is_journal_directory",
    "list_journals", "make_request_id", "select_balance", "select_host_reports", "select_integrity_report",
    "start_journal", "stop_journal",
]  # fmt: skip
