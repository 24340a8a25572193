"""Reports of recorded requests from the database, and the retention of their records.

stats.py, splits.py, shares.py, series.py: statistics over a window (time_window.py). records.py: records in pages, and
usage by day. story.py: one record by any of its ids. retries.py: the cost of clients' retries. csv_export.py: records
as CSV. totals.py: tokens and costs, shared by all reports. retention.py: creates partitions ahead and drops old ones.
"""

from app.db.activity_pages import STATUS_PATTERN, ActivityFilter
from app.db.tables import OUTCOMES
from app.services.reports.csv_export import break_on_failure, encode_csv, encode_table
from app.services.reports.records import (
    MAX_PAGE_ROWS,
    ActivityPage,
    select_activity_page,
    select_neighbours,
    select_usage_report,
    stream_activity_pages,
)
from app.services.reports.retention import drop_days, select_droppable_days, select_first_kept_day, start_retention
from app.services.reports.retries import RetryingClient, RetryReport, select_retry_report
from app.services.reports.shares import SPLITS, Owned, Share, SplitBy
from app.services.reports.splits import MAX_TOP_MODELS, EndpointStats, ModelStats
from app.services.reports.stats import Stats, select_stats
from app.services.reports.story import RequestStory, select_request_story
from app.services.reports.time_window import DEFAULT_TIME_RANGE, STEPS, TIME_RANGES, AskedWindow
from app.services.reports.totals import make_totals, normalize_usd

# fmt: off
__all__ = [
    "DEFAULT_TIME_RANGE", "MAX_PAGE_ROWS", "MAX_TOP_MODELS", "OUTCOMES", "SPLITS", "STATUS_PATTERN", "STEPS",
    "TIME_RANGES", "ActivityFilter", "ActivityPage", "AskedWindow", "EndpointStats", "ModelStats", "Owned",
    "RequestStory", "RetryReport", "RetryingClient", "Share", "SplitBy", "Stats", "break_on_failure", "drop_days",
    "encode_csv", "encode_table", "make_totals", "normalize_usd", "select_activity_page", "select_droppable_days",
    "select_first_kept_day", "select_neighbours", "select_request_story", "select_retry_report", "select_stats",
    "select_usage_report", "start_retention", "stream_activity_pages",
]
# fmt: on
