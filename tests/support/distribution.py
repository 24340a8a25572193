"""Decides which tests share a process and which files start first, when pytest-xdist runs the suite in several.

A file stays in one process, as with `--dist loadfile`, because its fixtures start gateways. Files that need the same
expensive session fixture stay together too, because otherwise each process would make its own.
"""

from __future__ import annotations

from xdist.scheduler.loadscope import LoadScopeScheduling

# Prefixes of paths below tests/. The files of a group share a gateway, an SDK or a measurement that takes seconds.
_TOGETHER = (
    # Users of the gateway with short timeouts.
    (
        "routes/test_chat_long_answers",
        "routes/test_chat_refusals",
        "routes/test_chat_stream_faults",
        "routes/test_chat_streaming",
        "routes/test_chat_unstreamed_faults",
        "routes/test_ordinary_requests",
        "routes/test_request_reading",
    ),
    (
        "clients/",
        "faults/test_nginx",
        "routes/test_chat_client_leaves",
        "routes/test_chat_dense_bodies",
        "routes/test_chat_odd_events",
        "routes/test_chat_requests",
        "routes/test_chat_retries",
        "routes/test_request_story",
        "routes/test_traces",
        "test_malformed",
        "web/test_client_address",
        "web/test_cors",
    ),
    # Users of both SDKs, and of the gateway in front of four providers.
    (
        "routes/test_messages_client",
        "faults/test_document",
        "faults/test_leaving",
        "faults/test_own",
        "faults/test_provider",
        "faults/test_translated",
        "routes/test_aliases",
        "routes/test_catalog_sandbox",
        "routes/test_chat_histories",
        "routes/test_chat_providers",
        "routes/test_completions",
        "routes/test_embeddings",
        "routes/test_idempotency",
        "routes/test_limits_sdks",
        "routes/test_models",
        "routes/test_offers",
        "routes/test_rerank",
        "routes/test_responses_openai_client",
        "routes/test_stats",
        "services/endpoints/test_completions",
        "services/endpoints/test_embeddings",
        "services/endpoints/test_messages_stream",
        "services/endpoints/test_responses_stream",
    ),
    # Users of openai's SDK, and of the two gateways that most tests share.
    (
        "routes/test_chat_odd_answers",
        "routes/test_chat_activity",
        "routes/test_chat_openai_client",
        "routes/test_health",
        "openapi/test_document",
        "sandbox/",
        "test_documented",
        "web/test_hooks",
    ),
    (
        "test_operation_outage",
        "routes/test_activity_export",
        "routes/test_database_away",
        "test_operation_boot.py",
        "test_operation_aliases",
        "test_operation_keys",
        "services/aliases/",
    ),
    ("fallback/test_dry_run", "fallback/test_endpoints", "fallback/test_failures", "fallback/test_property"),
    ("services/journal/test_shipper", "services/journal/test_disk"),
    # The pages, which share a gateway and a browser.
    ("dashboard/",),
    ("db/test_activity.py", "db/test_engine"),
)

# The groups that take longest on a machine with two cores, the longest first. Some are long only in `make soak`.
# They start first, so that no process is left with a long one while the others are idle.
_LONGEST = (
    "routes/test_messages_client",
    "dashboard/",
    "routes/test_chat_odd_answers",
    "routes/test_chat_long_answers",
    "clients/",
    "test_operation_outage",
    "services/journal/test_shipper",
    "test_operation_workers",
    "test_operation_restart",
    "test_dev",
    "soak/test_accounting_stop",
    "routes/test_limits.py",
    "services/limits/test_budget_processes",
    "soak/test_accounting_database",
    "test_operation_boot_mistakes",
    "doctor/",
    "fallback/test_dry_run",
    "routes/test_routing",
    "services/journal/test_restore",
    "test_operation_redaction",
    "test_operation_stop",
    "services/journal/test_orphans",
    "soak/test_accounting_kills",
    "services/limits/test_rate_processes",
    "soak/test_signals",
    "faults/test_metrics",
    "services/limits/test_limits",
    "soak/test_leaks",
    "routes/test_fairness",
    "test_operation_metrics",
    "db/test_schema",
    "server/test_request_head",
    "test_house",
    "services/reports/test_retention",
    "db/test_activity.py",
    "routes/test_limits_webhook",
    "db/test_counting_migration",
    "services/test_webhook",
    "services/inference/test_cancellation",
    "routes/test_toy_endpoint",
    "db/test_fold",
    "services/reports/test_stats",
    "cli/test_activity",
    "soak/test_fuzz",
    "routes/test_chat_tls",
    "routes/test_activity.py",
    "db/test_reading_activity",
    "db/test_concurrency",
    "routes/test_fifth_provider",
    "services/journal/test_segments",
    "routes/test_administration",
    "db/test_growth",
)


class Distribution(LoadScopeScheduling):
    """Hands out groups of files to the processes, in the order in which they were collected."""

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
    """Returns the sort key of a test: long groups come first, and a group's tests follow each other."""
    group = _below_tests(group_of(nodeid))
    ranks = (rank for rank, file in enumerate(_LONGEST) if group.startswith(file))
    return next(ranks, len(_LONGEST)), group


def _below_tests(file: str) -> str:
    return file.removeprefix("tests/")
