"""The dashboard: pages for people, below `/dashboard/`. It is one more client of the services, as the API is.

frame.py        the blueprints; who is signed in; errors as pages; refusal of requests that other sites cause
sign_in.py      signing in and out
overview.py     what happened lately
health.py, integrity.py, settings.py   the state of the gateway, for operators
"""

from app.dashboard import health, integrity, overview, settings, sign_in
from app.dashboard.frame import BLUEPRINTS

__all__ = ["BLUEPRINTS", "health", "integrity", "overview", "settings", "sign_in"]
