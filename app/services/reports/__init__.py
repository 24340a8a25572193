"""Reports of recorded requests from the database, and the retention of their records.

stats.py: statistics over a window of time. records.py: records in pages, and usage by day. csv_export.py: records as
CSV. totals.py: tokens and costs, which all reports share. retention.py: makes partitions ahead and drops old ones.
"""

from app.db.activity import ActivityFilter
from app.db.tables import OUTCOMES
from app.services.reports.csv_export import break_on_failure, encode_csv
from app.services.reports.records import (
    MAX_PAGE_ROWS,
    MAX_USAGE_DAYS,
    select_activity_page,
    select_usage_report,
    stream_activity_pages,
)
from app.services.reports.retention import drop_days, get_first_kept_day, select_droppable_days, start_retention
from app.services.reports.stats import DEFAULT_TIME_RANGE, TIME_RANGES, Stats, select_stats

__all__ = [
    "DEFAULT_TIME_RANGE",
    "MAX_PAGE_ROWS",
    "MAX_USAGE_DAYS",
    "OUTCOMES",
    "TIME_RANGES",
    "ActivityFilter",
    "Stats",
    "break_on_failure",
    "drop_days",
    "encode_csv",
    "get_first_kept_day",
    "select_activity_page",
    "select_droppable_days",
    "select_stats",
    "select_usage_report",
    "start_retention",
    "stream_activity_pages",
]
