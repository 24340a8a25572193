"""The state of the gateway and of what it depends on: checks, readiness, and the gauges for Prometheus.

checks.py     the list of checks for `/ready`
readiness.py  whether this process should get requests
gauges.py     the state of this worker as metrics
"""

from app.services.health.checks import CHECKS, Check, Finding, check_database
from app.services.health.gauges import start_gauges
from app.services.health.readiness import Readiness, get_readiness

__all__ = ["CHECKS", "Check", "Finding", "Readiness", "check_database", "get_readiness", "start_gauges"]
