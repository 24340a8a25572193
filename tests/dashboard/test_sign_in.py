"""Access to pages: sign-in by key and by link, sessions and their end, and requests that other sites cause."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import requests

from app import create_app
from app.config import load_settings
from app.runtime import get_component, use_settings
from app.services.sessions.session_memory import SessionMemory
from app.services.sessions.sessions import digest_token
from tests.dashboard.conftest import MODEL, Pages
from tests.support.gateway import base_settings
from tests.support.prefix_proxy import running_prefix_proxy
from tests.support.user_keys import make_key, revoke
from tests.support.waiting import wait_until

# Pages that anybody may see.
OPEN = {"/dashboard/sign-in", "/dashboard/sign-out", "/dashboard/link"}
# Page that is shown without the database → its sentence about that.
WITHOUT_DATABASE = {
    "models": "so the requests of the last 7 days are not shown",
    f"models/one?id={MODEL}": "unknown now, because the gateway",
    "playground": "what they cost is shown only when it is back",
    "settings": "DATABASE_URL",
}


def get(url: str, **more: Any) -> requests.Response:
    """Asks without following a redirect."""
    return requests.get(url, timeout=30, allow_redirects=False, **more)


def test_every_page_wants_a_session_and_leads_back_after_the_sign_in(dashboard: Pages) -> None:
    use_settings(None)
    app = create_app(load_settings({}))
    rules = {rule.rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/dashboard")} - OPEN
    use_settings(None)
    assert len(rules) > 5
    for rule in rules:
        path = re.sub(r"<.*?>", "x", rule)
        for response in (
            get(dashboard.gateway.url + path),
            requests.post(
                dashboard.gateway.url + path,
                headers={"Origin": dashboard.gateway.url},
                timeout=30,
                allow_redirects=False,
            ),
        ):
            assert response.status_code in {303, 401, 405}, path
            if response.status_code == 303:
                assert "/sign-in" in response.headers["location"] and not response.cookies, path
    with dashboard.sign_in() as session:
        session.post(f"{dashboard.url}/sign-out", timeout=30)
        form = session.get(f"{dashboard.url}/activity?outcome=ok&time_range=1h", timeout=30)
        assert form.url.startswith(f"{dashboard.url}/sign-in?next=")
        wanted = html.unescape(re.findall(r'name="next" value="([^"]*)"', form.text)[0])
        entered = session.post(f"{dashboard.url}/sign-in", data={"key": dashboard.alice, "next": wanted}, timeout=30)
        assert entered.url == f"{dashboard.url}/activity?outcome=ok&time_range=1h"
        for elsewhere in (
            "//evil.example",
            "https://evil.example/",
            "/\\evil.example",
            "../../x",
            "javascript:alert(1)",
        ):
            entered = session.post(
                f"{dashboard.url}/sign-in", data={"key": dashboard.alice, "next": elsewhere}, timeout=30
            )
            assert entered.url == f"{dashboard.url}/"


def test_a_browser_is_sent_to_the_dashboard_and_a_program_is_not(dashboard: Pages) -> None:
    sent = get(dashboard.gateway.url + "/", headers={"Accept": "text/html,application/xhtml+xml"})
    assert (sent.status_code, sent.headers["location"]) == (303, "dashboard/")
    assert get(dashboard.gateway.url + "/").json()["service"] == "llm-gateway"
    assert get(f"{dashboard.gateway.url}/api/hello", headers={"Accept": "text/html"}).status_code == 200


def test_the_cookie_holds_no_key_is_for_pages_alone_and_ends_with_the_session(dashboard: Pages) -> None:
    with dashboard.sign_in(dashboard.alice) as session:
        (cookie,) = session.cookies
        assert (cookie.path, cookie.secure) == ("/dashboard", False) and cookie.has_nonstandard_attr("HttpOnly")
        assert dashboard.alice not in str(cookie.value) and cookie.get_nonstandard_attr("SameSite") == "Lax"
        copied = {"gateway_session": str(cookie.value)}
        for path in ("/api/activity", "/v1/models", "/api/key"):  # The API ignores the cookie.
            assert get(dashboard.gateway.url + path, cookies=copied).status_code == 401
        assert get(f"{dashboard.url}/", cookies=copied).status_code == 200
        session.post(f"{dashboard.url}/sign-out", timeout=30)
        for _ in range(8):  # At both workers.
            assert get(f"{dashboard.url}/", cookies=copied).status_code == 303
        # The form deletes the invalid cookie, so there is no redirect loop.
        form = get(f"{dashboard.url}/sign-in", cookies=copied)
        assert form.status_code == 200 and "Max-Age=0" in form.headers["set-cookie"]
    assert dashboard.alice not in dashboard.gateway.log() and str(cookie.value) not in dashboard.gateway.log()


def test_a_post_that_another_site_caused_is_refused(dashboard: Pages) -> None:
    origin = dashboard.gateway.url
    refused: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": origin},
        {"Sec-Fetch-Site": "same-site", "Origin": origin},
        {},
    ]
    for path in ("sign-in", "sign-out", "link"):
        for headers in refused:
            response = requests.post(
                f"{dashboard.url}/{path}", headers=headers, data={"key": dashboard.alice}, timeout=30
            )
            assert response.status_code == 403 and "did not come from a page" in response.text
    accepted = requests.post(
        f"{dashboard.url}/sign-in",
        headers={"Sec-Fetch-Site": "same-origin"},
        data={"key": dashboard.alice},
        timeout=30,
        allow_redirects=False,
    )
    assert accepted.status_code == 303


def test_failed_sign_ins_are_limited_and_the_wrong_key_is_shown_nowhere(dashboard: Pages) -> None:
    headers = {"Origin": dashboard.gateway.url, "X-Forwarded-For": "203.0.113.7"}
    wrong = "gw_wrong_key_that_nobody_has"
    seen = []
    while 429 not in seen:  # Each of the two workers counts separately.
        response = requests.post(f"{dashboard.url}/sign-in", headers=headers, data={"key": wrong}, timeout=30)
        seen.append(response.status_code)
        assert wrong not in response.text and len(seen) <= 11
    assert set(seen) == {401, 429} and seen.count(401) >= 5 and int(response.headers["retry-after"]) <= 60
    other = requests.post(
        f"{dashboard.url}/sign-in",
        headers=headers | {"X-Forwarded-For": "203.0.113.8"},
        data={"key": wrong},
        timeout=30,
    )
    assert other.status_code == 401 and wrong not in dashboard.gateway.log()


def test_a_link_from_the_command_signs_in_once_and_a_revoked_key_ends_its_session(
    dashboard: Pages, tmp_path: Path
) -> None:
    key = make_key(dashboard.database_url, "carol")
    runner = create_app(load_settings(base_settings(tmp_path, dashboard.database_url))).test_cli_runner()
    made = runner.invoke(args=["dashboard", "link", "--key", key.split("_")[1], "--url", dashboard.gateway.url])
    unknown = runner.invoke(args=["dashboard", "link", "--key", "nobody"])
    use_settings(None)
    assert unknown.exit_code == 1 and "There is no key 'nobody'" in unknown.output
    link = made.output.split()[0]
    assert link.startswith(f"{dashboard.url}/link?token=")
    data, headers = {"token": link.partition("=")[2]}, {"Origin": dashboard.gateway.url}
    with requests.Session() as session:
        assert session.post(f"{dashboard.url}/link", data=data, headers=headers, timeout=30).url == f"{dashboard.url}/"
        again = requests.post(f"{dashboard.url}/link", data=data, headers=headers, timeout=30)
        assert again.status_code == 401 and "can be used once" in again.text
        revoke(dashboard.database_url, key)
        wait_until(
            lambda: session.get(f"{dashboard.url}/", timeout=30).url.startswith(f"{dashboard.url}/sign-in"),
            what="the end of the session",
        )


def test_below_any_prefix_and_over_tls_everything_works_without_a_setting(
    dashboard: Pages, certificate: tuple[Path, Path]
) -> None:
    with running_prefix_proxy(dashboard.gateway.port, "/team/llm", certificate) as url:
        origin = url.removesuffix("/team/llm")
        with requests.Session() as session:
            session.verify, session.trust_env = str(certificate[0]), False
            session.headers["Origin"] = origin
            assert session.get(f"{url}/", headers={"Accept": "text/html"}, timeout=30).url == f"{url}/dashboard/sign-in"
            page = session.post(f"{url}/dashboard/sign-in", data={"key": dashboard.alice}, timeout=30)
            assert page.url == f"{url}/dashboard/"
            (cookie,) = session.cookies
            assert (cookie.path, cookie.secure) == ("/team/llm/dashboard", True)
            addresses = map(html.unescape, re.findall(r'(?:href|src|action)="([^"#]*)"', page.text))
            for address in {each.partition("?")[0]: each for each in addresses}.values():
                assert not address.startswith(("/", "http")), address
                followed = session.get(f"{url}/dashboard/{address}", timeout=30, allow_redirects=False)
                expected = 404 if "sign-out" in address else 200  # Signing out takes a POST.
                assert followed.status_code == expected, address


def test_who_is_signed_in_stays_so_while_the_database_is_away(dashboard: Pages) -> None:
    with dashboard.sign_in() as session:
        for _ in range(12):  # At both workers.
            assert session.get(f"{dashboard.url}/models", timeout=30, headers={"Connection": "close"}).ok
        dashboard.database.cut()
        try:
            away = session.get(f"{dashboard.url}/", timeout=30)
            assert away.status_code == 503 and "database is unavailable" in away.text and "GATEWAY_API_KEY" in away.text
            for path, missing in WITHOUT_DATABASE.items():
                shown = session.get(f"{dashboard.url}/{path}", timeout=30)
                assert shown.status_code == 200 and missing in shown.text, path
                assert MODEL in shown.text or path == "settings", path
            nobody = requests.get(f"{dashboard.url}/", cookies={"gateway_session": "x"}, timeout=30)
            assert nobody.status_code == 503 and "Nobody can sign in now" in nobody.text
        finally:
            dashboard.database.mend()
        wait_until(lambda: session.get(f"{dashboard.url}/", timeout=30).ok, what="the page after the outage")


def test_one_can_sign_out_while_the_database_is_away(dashboard: Pages) -> None:
    with dashboard.sign_in() as session:
        copied = {"gateway_session": str(next(iter(session.cookies)).value)}
        assert session.get(f"{dashboard.url}/health", timeout=30).ok
        dashboard.database.cut()
        try:
            out = session.post(f"{dashboard.url}/sign-out", timeout=30, allow_redirects=False)
            assert out.status_code == 303 and "Max-Age=0" in out.headers["set-cookie"] and not session.cookies
            told = session.get(f"{dashboard.url}/{out.headers['location']}".replace("../dashboard/", ""), timeout=30)
            assert told.status_code == 200 and "You are signed out in this browser" in told.text
            # The connection stays with the same worker, which does not accept the cookie any more.
            again = session.get(f"{dashboard.url}/health", cookies=copied, timeout=30, allow_redirects=False)
            assert again.status_code == 303 and "/sign-in" in again.headers["location"]
        finally:
            dashboard.database.mend()

        def is_out() -> bool:
            shown = [get(f"{dashboard.url}/health", cookies=copied) for _ in range(12)]  # At both workers.
            return all(each.status_code == 303 for each in shown)

        wait_until(is_out, what="the end of the session at all workers")


def test_health_is_shown_soon_while_the_database_hangs(dashboard: Pages) -> None:
    with dashboard.sign_in() as session:
        assert session.get(f"{dashboard.url}/health", timeout=30).ok
        dashboard.database.freeze()
        try:
            # The statements of the page could take up to 6 + 1 + 4 s in all.
            shown = session.get(f"{dashboard.url}/health", timeout=7)
        finally:
            dashboard.database.thaw()
        assert shown.status_code == 200 and "did not answer within" in shown.text
        assert "The other workers cannot be shown" in shown.text


def test_a_worker_knows_the_sessions_that_others_began(dashboard: Pages, tmp_path: Path) -> None:
    with dashboard.sign_in(dashboard.bob) as session:
        token = str(next(iter(session.cookies)).value)
    use_settings(load_settings(base_settings(tmp_path, dashboard.database_url)))
    memory = get_component(SessionMemory)
    assert memory.get(digest_token(token)) is None
    memory.refresh()
    assert memory.get(digest_token(token)) is not None
    use_settings(None)
