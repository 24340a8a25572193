"""The dashboard: pages for people, below `/dashboard/`. It is one more client of the services, as the API is.

frame.py        the blueprints; who is signed in; errors as pages; refusal of requests that other sites cause
sign_in.py      signing in and out
overview.py     what happened lately; window.py and charts.py are shared with activity.py, the records
requests.py     one request
models.py       what the providers serve
routing.py      who serves a model or an alias, and how well
playground.py   sends requests and shows them as code (calls.py)
keys.py         keys; holders.py  who has them; groups.py  groups, limits of the gateway, budgets
limit_forms.py  the fields of limits
bill.py, health.py, integrity.py, settings.py   what was billed, and the state of the gateway, for operators
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
