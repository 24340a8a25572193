"""The frame of all dashboard pages: the sign-in check, errors as pages, and the refusal of other sites' requests.

All of it is attached to the blueprints of the pages, so API requests pass through none of it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from flask import Blueprint, g, request

from app.config import SettingsError
from app.db import DatabaseError, describe_error
from app.errors import AuthenticationFailed, BadRequest, GatewayError, NotFound, PermissionDenied, Unavailable
from app.layout import redirect_to, render_page
from app.logs import log_event
from app.routes import read_body
from app.services.sessions import find_session_key
from app.web import Response

# The pages for signed-in people, and the pages for signing in.
pages = Blueprint("dashboard", __name__)
open_pages = Blueprint("dashboard_sign_in", __name__)
# Requests of the pages' script. Their errors are JSON, like those of the API.
calls = Blueprint("dashboard_calls", __name__)
BLUEPRINTS = (pages, open_pages, calls)

COOKIE = "gateway_session"
SIGN_IN = "dashboard/sign-in"
_MAX_FORM_BYTES = 1 << 20
_MAX_FIELDS = 200


@open_pages.before_request
def _raise_if_foreign() -> None:
    """Refuses a POST caused by another web site.

    Browsers tell in Sec-Fetch-Site, but not over http to a host other than localhost. Then the Origin must be ours.

    Raises:
        PermissionDenied: it came from another site.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_own = (
        site == "same-origin" if site else bool(origin) and urlsplit(str(origin)).netloc == request.headers.get("Host")
    )
    if not is_own:
        raise PermissionDenied(
            "This request did not come from a page of the gateway. Open the dashboard and try again there. If it is"
            " behind a proxy, the proxy must pass on the header Host."
        )


@pages.before_request
def _guard() -> Response | None:
    """Sets `g.key` to the signed-in key; sends everybody else to the sign-in page."""
    _raise_if_foreign()
    token = request.cookies.get(COOKIE)
    key = find_session_key(token) if token else None
    if key is None:
        return _send_to_sign_in()
    g.key = key
    return None


@calls.before_request
def _guard_call() -> None:
    """Sets `g.key` like `_guard`.

    Raises:
        AuthenticationFailed: nobody is signed in.
        PermissionDenied: another web site caused the request.
    """
    if _guard() is not None:
        raise AuthenticationFailed("You are not signed in any more. Reload the page and sign in.", code="signed_out")


def _send_to_sign_in() -> Response:
    if request.method != "GET":
        return redirect_to(SIGN_IN)
    query = request.query_string.decode("latin-1")
    wanted = request.path.removeprefix("/dashboard/") + (f"?{query}" if query else "")
    return redirect_to(f"{SIGN_IN}?next={quote(wanted, safe='')}" if wanted else SIGN_IN)


def require_operator() -> None:
    """Refuses everybody who is not signed in with an operator's key.

    Raises:
        PermissionDenied: the key is not an operator's.
    """
    if not g.key.is_operator:
        raise PermissionDenied("This page is for operators. Sign in with an operator's key to see it.")


def read_form() -> dict[str, str]:
    """Returns the fields of the submitted form; of several fields with one name, the last.

    Raises:
        BadRequest: it is too large, or not UTF-8.
    """
    try:
        text = read_body(_MAX_FORM_BYTES).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"))
    except ValueError as error:
        raise BadRequest("The form could not be read. Reload the page and fill it in again.") from error


def show(template: str, current: str, **values: Any) -> Response:
    """Returns a page for a signed-in person; `current` is its path in the navigation."""
    return render_page(template, viewer=g.key, current=current, origin=get_origin(), **values)


def get_origin() -> str:
    """Returns the gateway's address from the point of view of this request's browser, for commands to copy.

    A prefix that a proxy strips is not known here; the page's script adds it.
    """
    scheme, host = request.environ["wsgi.url_scheme"], request.headers.get("Host", "localhost")
    return f"{scheme}://{host}{request.environ.get('SCRIPT_NAME', '')}"


@pages.get("/dashboard")
def find_dashboard() -> Response:
    """Redirects to the first page."""
    return redirect_to("dashboard/")


@pages.get("/dashboard/<path:rest>")
def show_nothing(rest: str) -> Response:
    """Reports that there is no such page.

    Raises:
        NotFound: always.
    """
    raise NotFound("There is no such page. The navigation has all pages.")


def _show_error(error: Exception) -> Response:
    """Returns any error as a page."""
    if isinstance(error, GatewayError):
        shown = error
    elif isinstance(error, DatabaseError | SettingsError):
        log_event("database_access_failed", level="warning", reason=describe_error(error), path=request.path[:500])
        shown = Unavailable(
            "The gateway's database is unavailable, and this page needs it. Requests are served nevertheless, and their"
            " records wait in the journal. Reload this page in some seconds.",
            code="database_unavailable",
            retry_after_s=5,
        )
    else:
        log_event("page_failed", level="error", error=error, path=request.path[:500])
        shown = GatewayError("This page failed. The gateway's log says why, with the x-request-id of this response.")
    titles = {403: "Not allowed", 404: "Not found", 429: "Too many attempts", 503: "Not available now"}
    values = {"viewer": g.key} if g.key is not None else {}
    is_form = request.method == "POST" and shown.status < 500 and not isinstance(shown, AuthenticationFailed)
    return render_page(
        "error.html",
        status=shown.status,
        headers=shown.headers(),
        heading=titles.get(shown.status, "That did not work"),
        message=shown.message,
        is_form=is_form,
        **values,
    )


for _blueprint in (pages, open_pages):
    _blueprint.register_error_handler(Exception, _show_error)
