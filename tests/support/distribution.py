"""Decides which tests share a process, and which files begin first, when pytest-xdist runs the suite in several.

A file stays in one process, as with `--dist loadfile`, because its fixtures start gateways. Files that need the same
expensive fixture of the session stay together too: otherwise each process would make it again.
"""

from __future__ import annotations

from xdist.scheduler.loadscope import LoadScopeScheduling

# Prefixes of paths below tests/. The files of a line share a gateway or a measurement that takes seconds.
_TOGETHER = (
    ("faults/test_document", "faults/test_leaving", "faults/test_own", "faults/test_provider"),
    ("routes/test_catalog_sandbox", "routes/test_chat_providers"),
    (
        "routes/test_chat_long_answers",
        "routes/test_chat_refusals",
        "routes/test_chat_stream_faults",
        "routes/test_chat_streaming",
        "routes/test_chat_unstreamed_faults",
    ),
    ("clients/", "faults/test_nginx", "routes/test_chat_client_leaves", "test_malformed"),
    (
        "routes/test_chat_activity",
        "routes/test_chat_openai_client",
        "sandbox/test_document",
        "test_documented",
        "web/test_hooks",
    ),
    ("routes/test_database_away", "test_operation_boot", "test_operation_keys", "test_operation_outage"),
)

# The groups that take longest, the longest first: 50 seconds down to 7 on a machine with two cores. They begin first,
# so that no process is left with a long one while the others have nothing to do.
_LONGEST = (
    "routes/test_chat_long_answers",
    "test_dev",
    "routes/test_database_away",
    "services/journal/test_shipper",
    "routes/test_chat_odd_answers",
    "faults/test_document",
    "test_operation_workers",
    "soak/test_accounting_stop",
    "soak/test_accounting_database",
    "soak/test_accounting_kills",
    "routes/test_chat_activity",
    "soak/test_signals",
    "routes/test_activity_export",
    "soak/test_fuzz",
    "routes/test_ordinary_requests",
    "services/journal/test_orphans",
    "clients/",
    "routes/test_chat_retries",
    "test_operation_stop",
    "services/journal/test_disk",
    "faults/test_metrics",
    "routes/test_fairness",
    "db/test_schema",
    "services/reports/test_retention",
    "routes/test_request_story",
    "routes/test_catalog_sandbox",
    "test_operation_metrics",
    "services/reports/test_stats",
    "db/test_engine",
    "soak/test_leaks",
    "db/test_activity",
)


class Distribution(LoadScopeScheduling):
    """Hands groups of files to the processes, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Returns the name of a test's group: its file, or the first of the files that stay together."""
    file = nodeid.partition("::")[0]
    for files in _TOGETHER:
        if _below_tests(file).startswith(files):
            return files[0]
    return file


def sort_key_of(nodeid: str) -> tuple[int, str]:
    """Returns the sort key of a test: groups that take long come first, and a group's tests follow each other."""
    group = _below_tests(group_of(nodeid))
    ranks = (rank for rank, file in enumerate(_LONGEST) if group.startswith(file))
    return next(ranks, len(_LONGEST)), group


def _below_tests(file: str) -> str:
    return file.removeprefix("tests/")
