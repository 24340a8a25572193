"""The sessions of the dashboard, each with a gateway key.

sessions.py         begins, finds and ends sessions
links.py            one-time links that begin a session
session_memory.py   the sessions in memory, for when the database is away
throttle.py         a limit on failed sign-ins
"""

from app.services.sessions.links import LINK_LIFE_MINUTES, create_link, create_link_for, redeem_link
from app.services.sessions.session_memory import start_sessions
from app.services.sessions.sessions import create_session, end_session, find_session_key
from app.services.sessions.throttle import SignInThrottle

# fmt: off
__all__ = [
    "LINK_LIFE_MINUTES", "SignInThrottle", "create_link", "create_link_for", "create_session", "end_session",
    "find_session_key", "redeem_link", "start_sessions",
]
# fmt: on
