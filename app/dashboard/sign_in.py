"""Signing in with a gateway key or a one-time link, and signing out."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import request

from app.dashboard.frame import COOKIE, SIGN_IN, open_pages, read_form
from app.errors import AuthenticationFailed, GatewayError
from app.layout import redirect_to, render_page
from app.runtime import get_component
from app.services.sessions import SignInThrottle, create_session, end_session, redeem_link
from app.web import Response, get_client_address

_MAX_NEXT_CHARACTERS = 2_000


@open_pages.get("/dashboard/sign-in")
def show_sign_in() -> Response:
    """Shows the form. A cookie that led here is worthless, so it is deleted."""
    return _show_form(request.args.get("next", ""))


@open_pages.post("/dashboard/sign-in")
def sign_in() -> Response:
    """Signs in with a key."""
    form = read_form()
    address, throttle = get_client_address(), get_component(SignInThrottle)
    wanted = form.get("next", "")
    try:
        throttle.raise_if_too_many(address)
        token = create_session(form.get("key", "").strip())
    except AuthenticationFailed as error:
        throttle.count(address)
        message = "Paste a gateway key." if error.code == "missing_api_key" else error.message
        return _show_form(wanted, error=message, status=401)
    except GatewayError as error:
        return _show_form(wanted, error=error.message, status=error.status, headers=error.headers())
    return _enter(token, wanted)


@open_pages.get("/dashboard/link")
def show_link() -> Response:
    """Shows a button, because programs that preview a link also follow it and would use it up."""
    return render_page("link.html", token=request.args.get("token", "")[:100])


@open_pages.post("/dashboard/link")
def follow_link() -> Response:
    """Signs in with a one-time link."""
    address, throttle = get_client_address(), get_component(SignInThrottle)
    throttle.raise_if_too_many(address)
    try:
        token = redeem_link(read_form().get("token", ""))
    except AuthenticationFailed as error:
        throttle.count(address)
        return _show_form("", error=error.message, status=401)
    return _enter(token, "")


@open_pages.post("/dashboard/sign-out")
def sign_out() -> Response:
    """Ends the session and deletes the cookie, even while the database is away."""
    token = request.cookies.get(COOKIE)
    is_everywhere = not token or end_session(token)
    response = redirect_to(SIGN_IN if is_everywhere else f"{SIGN_IN}?signed_out=here")
    _delete_cookie(response)
    return response


def _show_form(wanted: str, *, error: str = "", status: int = 200, headers: dict[str, str] | None = None) -> Response:
    response = render_page(
        "sign_in.html",
        status=status,
        headers=headers,
        next=_keep_own_address(wanted),
        error=error,
        is_out_here=request.args.get("signed_out") == "here",
    )
    if request.method == "GET" and COOKIE in request.cookies:
        _delete_cookie(response)
    return response


def _enter(token: str, wanted: str) -> Response:
    response = redirect_to("dashboard/" + _keep_own_address(wanted))
    # Without a path the browser uses the directory of this address, so it is right below any prefix of a proxy. With
    # SameSite=Strict a link in a chat would lead to the form, even for signed-in people.
    response.set_cookie(COOKIE, token, path=None, httponly=True, samesite="Lax", secure=_is_https())
    return response


def _delete_cookie(response: Response) -> None:
    response.set_cookie(COOKIE, "", path=None, max_age=0, httponly=True, samesite="Lax", secure=_is_https())


def _is_https() -> bool:
    return bool(request.environ["wsgi.url_scheme"] == "https")


def _keep_own_address(wanted: str) -> str:
    """Returns an address below `/dashboard/` unchanged, and an empty text for any other."""
    parts = urlsplit(wanted)
    is_ours = not (parts.scheme or parts.netloc or parts.path.startswith("/") or ".." in parts.path or "\\" in wanted)
    return wanted if is_ours and wanted.isprintable() and len(wanted) <= _MAX_NEXT_CHARACTERS else ""
