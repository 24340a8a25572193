"""The dashboard: pages for people, below `/dashboard/`. It is one more client of the services, as the API is.

frame.py        the blueprints; who is signed in; errors as pages; refusal of requests that other sites cause
sign_in.py      signing in and out
overview.py     what happened lately
"""

from app.dashboard import overview, sign_in
from app.dashboard.frame import BLUEPRINTS

__all__ = ["BLUEPRINTS", "overview", "sign_in"]
