"""The state of the gateway and its dependencies: checks, readiness, and the gauges for Prometheus.

checks.py     the list of checks for `/ready`
readiness.py  whether this process should get requests
gauges.py     the state of this worker as metrics; ledger_gauges.py  whether the ledger is balanced
settings_report.py  the settings, without secrets
workers.py    the state of this worker for the registry, and the report on all workers
"""

from app.services.health.checks import CHECKS, check_database, explain_database_error
from app.services.health.gauges import start_gauges
from app.services.health.readiness import Readiness, check_readiness, note_readiness
from app.services.health.settings_report import get_setting_reports
from app.services.health.workers import Workers, encode_worker_state, select_workers_report

__all__ = [
    "CHECKS", "Readiness", "Workers", "check_database", "check_readiness", "encode_worker_state",
    "explain_database_error", "get_setting_reports", "note_readiness", "select_workers_report", "start_gauges",
]  # fmt: skip
