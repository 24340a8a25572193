"""`bin/gateway doctor`: examines a gateway's set-up from outside, and reports each problem with its remedy.

results.py    the result of a check
setting_checks.py   the settings, each by itself, even if some are malformed
host_checks.py      this machine: open files, port, the journal's directory, checks shared with the start
database_checks.py  PostgreSQL: schema, clocks, records, keys that expire, prices
provider_checks.py  each provider and each of its keys
trace_checks.py     the collector of traces
paid_checks.py      a request of one token with each key, only on demand
url_checks.py       the running gateway, through its proxies
examination.py      all of them in order
"""

from app.doctor.database_checks import check_migration_addresses
from app.doctor.examination import examine

__all__ = ["check_migration_addresses", "examine"]
