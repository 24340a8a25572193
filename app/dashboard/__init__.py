"""The dashboard: pages for people, below `/dashboard/`. It uses the services like the API does.

frame.py        the blueprints; the signed-in key; errors as pages; refusal of requests caused by other sites
sign_in.py      signing in and out
overview.py     recent figures; window.py and charts.py are shared with activity.py, the records
requests.py     one request
models.py       the providers' models
routing.py      the providers of a model or an alias, and their quality; aliases.py  makes and changes aliases
playground.py   sends requests and shows them as code (calls.py)
keys.py         keys; holders.py  their holders; groups.py  groups, limits of the gateway, budgets
limit_forms.py  the fields of limits
bill.py, health.py, integrity.py, settings.py   the bill, and the state of the gateway, for operators
"""

from app.dashboard import (
    activity,
    aliases,
    bill,
    groups,
    health,
    holders,
    integrity,
    keys,
    models,
    overview,
    playground,
    requests,
    routing,
    settings,
    sign_in,
)
from app.dashboard.frame import BLUEPRINTS

# fmt: off
__all__ = [
    "BLUEPRINTS", "activity", "aliases", "bill", "groups", "health", "holders", "integrity", "keys", "models",
    "overview", "playground", "requests", "routing", "settings", "sign_in",
]
# fmt: on
