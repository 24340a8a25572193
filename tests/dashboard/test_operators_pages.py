"""Keys, Health, Integrity and Settings: what operators see and change, and the parts that a key's holder sees."""

from __future__ import annotations

import html
import json
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.dashboard.conftest import MODEL, Pages
from tests.dashboard.test_pages import click_through, text_of
from tests.support.chat import post_chat
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

OpenPage = Callable[..., Any]

OPERATORS = (
    "routing/one",
    "keys/new",
    "keys/x",
    "keys/x/revoke",
    "holders",
    "holders/x",
    "groups",
    "groups/new",
    "limits",
    "bill",
    "integrity",
    "settings",
)
OTHERS = ("in_flight", "unshipped", "unrecorded", "rejected", "unsent")
# The state that a worker of another host reported: a problem, an old list, and an open breaker.
STATE: dict[str, Any] = {
    "draining": False,
    "live_requests": 2,
    "live_streams": 1,
    "problems": {"keys": "a problem of the far worker"},
    "catalogs": {"fireworks": {"models": 1, "age_s": 7300, "stale": True, "error": "<b>no</b> list"}},
    "breakers": [{"provider": "chutes", "kind": "account", "retry_in_s": 60, "reason": "<i>suspended</i>"}],
}


@pytest.fixture
def far_worker(dashboard: Pages) -> Iterator[Callable[[str], None]]:
    """A function that registers a worker of another host, last seen so long ago; the test's end removes it."""
    engine = create_engine(dashboard.database_url, poolclass=NullPool)

    def make(ago: str) -> None:
        ready = requests.get(f"{dashboard.gateway.url}/ready", timeout=30).json()
        state = STATE | {"keys": ready["keys"], "journal": ready["journal"]}
        values = {"ago": ago, "state": json.dumps(state)}
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM worker WHERE worker_id = 'far'"))
            connection.execute(
                text("""INSERT INTO worker (worker_id, host, pid, version, journal_dir, started_at, last_seen_at, state)
                    VALUES ('far', 'far-away', 9, 'other', '/journal', now(), now() - CAST(:ago AS interval),
                        CAST(:state AS jsonb))"""),
                values,
            )

    yield make
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM worker WHERE worker_id = 'far'"))


def test_forms_make_and_change_a_key_an_alias_and_a_group(dashboard: Pages) -> None:
    """Without a browser; `make soak` clicks through all of it."""
    name = f"mona-{secrets.token_hex(3)}"
    with dashboard.sign_in() as session:

        def send(path: str, **form: str) -> str:
            answer = session.post(f"{dashboard.url}/{path}", data=form, timeout=30)
            assert answer.status_code in {200, 400}, answer.text
            return html.unescape(answer.text)

        wrong = send("keys/new", name=name, budgets="100/year")
        assert 'role="alert"' in wrong and f'value="{name}"' in wrong and "100/year" in wrong
        made = send("keys/new", name=name, budgets="5-requests/month", requests_per_minute="1,000")
        (secret,) = re.findall(r'<pre id="secret"[^>]*>([^<]*)</pre>', made)
        path = f"keys/{secret.split('_')[1]}"
        assert post_chat(dashboard.gateway, MODEL, key=secret).status == 200
        assert secret not in session.get(f"{dashboard.url}/{path}", timeout=30).text
        assert "`concurrent` must be a whole number" in send(path, name=name, concurrent="many")
        assert "Changed" in send(path, name=name, requests_per_minute="7")
        assert dashboard.ask(f"/api/{path}")["data"]["requests_per_minute"] == 7
        assert secret not in (replaced := send(f"{path}/rotate")) and 'id="secret"' in replaced
        assert "revoked" in send(f"{path}/revoke")
        wait_until(lambda: post_chat(dashboard.gateway, MODEL, key=secret).status == 401, what="the revocation")
        assert "is not a number" in send("routing/one", name=name, targets=f"{MODEL} three")
        send("routing/one", name=name, targets=f"{MODEL} 3", overrides='{"temperature": 0}')
        send("routing/one", old=name, targets=MODEL, sort="price")
        assert dashboard.ask(f"/api/aliases/{name}")["data"]["sort"] == "price"
        send("routing/remove", name=name)
        assert "error" in dashboard.ask(f"/api/aliases/{name}")
        assert "$200.00 a month" in send("groups/new", name=name, budgets="200/month")
        assert name in session.get(f"{dashboard.url}/groups", timeout=30).text


@soak_only("dashboard/test_operators_pages.py::test_forms_make_and_change_a_key_an_alias_and_a_group")
def test_a_key_is_made_limited_replaced_and_revoked(dashboard: Pages, open_page: OpenPage) -> None:
    name = f"dave-{secrets.token_hex(3)}"
    page = open_page()
    page.goto(f"{dashboard.url}/keys/new")
    page.fill("[name=name]", name)
    page.fill("[name=budgets]", "5-requests/month\n100/year")
    page.fill("[name=requests_per_minute]", "1,000")
    page.click("button.main")
    # After a mistake the form keeps its values, and the message is the API's.
    assert "windows" in text_of(page, "[role=alert]") or "year" in text_of(page, "[role=alert]")
    assert page.locator("[name=name]").input_value() == name
    page.fill("[name=budgets]", "5-requests/month")
    page.click("button.main")
    secret = text_of(page, "#secret")
    id = secret.split("_")[1]
    assert page.url == f"{dashboard.url}/keys/{id}"  # So a reload makes no second key
    page.reload()
    assert secret not in page.content() and text_of(page, "h1") == f"{name} works"  # and shows the secret no more.
    assert post_chat(dashboard.gateway, MODEL, key=secret).status == 200
    shown = wait_until(lambda: _find_used(dashboard, id), what="the charge")
    page.reload()
    assert "1 request charged" in text_of(page, ".budgets") and "20 %" in text_of(page, ".budgets")
    assert shown["requests_per_minute"] == 1000 and shown["last_used_at"] is not None
    with dashboard.sign_in(secret) as session:
        own = session.get(f"{dashboard.url}/keys", timeout=30).text
        assert "5 requests a month" in own and "4 requests left" in own and "Raise" not in own
    page.fill("[name=requests_per_minute]", "7")
    page.fill("[name=concurrent]", "many")
    page.click("text=Save")
    assert text_of(page, "[role=alert]").startswith("`concurrent` must be a whole number")
    assert page.locator("[name=requests_per_minute]").input_value() == "7"
    page.fill("[name=concurrent]", "")
    click_through(page, "text=Save")
    changed = dashboard.ask(f"/api/keys/{id}")["data"]
    assert (changed["requests_per_minute"], changed["concurrent"]) == (7, None)
    assert "Changed" in text_of(page, "[role=status].notice")
    page.click("text=Raise or end")
    page.fill("[name=amount]", "3")
    click_through(page, "button:has-text('Add')")
    assert "8 requests a month" in text_of(page, ".budgets") and "3 requests were added" in text_of(page, ".budgets")
    page.goto(f"{dashboard.url}/keys/{id}")
    page.click("button:has-text('Replace')")
    second = text_of(page, "#secret")
    assert post_chat(dashboard.gateway, MODEL, key=second).status == 200
    page.goto(f"{dashboard.url}/keys?holder={name}")
    assert [tag.strip() for tag in page.locator("td .tag").all_inner_texts()] == ["works", "replaced"]
    click_through(page, f"tbody tr:nth-child(1) >> text={name}")
    click_through(page, "dd a:has-text('dave')")  # The holder.
    holder = dashboard.ask(f"/api/holders/{name}")["data"]
    assert page.url.endswith(f"/holders/{holder['id']}") and "8 requests a month" in text_of(page, ".budgets")
    page.fill("[name=tokens_per_minute]", "5000")
    page.fill("[name=name]", f"{name} junior")
    click_through(page, "text=Save")
    assert text_of(page, "h1") == f"Holder {name} junior"
    changed = dashboard.ask(f"/api/keys/{second.split('_')[1]}")["data"]
    assert (changed["holder"], changed["tokens_per_minute"], changed["concurrent"]) == (f"{name} junior", 5000, None)
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("text=Delete the holder")
    assert "Revoke its keys" in text_of(page, "[role=alert]")
    page.goto(f"{dashboard.url}/holders")
    assert f"{name} junior" in text_of(page, "table")
    page.goto(f"{dashboard.url}/keys/{second.split('_')[1]}")
    page.click("text=Revoke…")
    assert "within 5 seconds" in text_of(page, "main")
    click_through(page, "text=Cancel")
    page.click("text=Revoke…")
    click_through(page, "text=Revoke the key")
    assert text_of(page, "h1") == f"{name} revoked" and page.locator("text=Save").count() == 0
    wait_until(lambda: post_chat(dashboard.gateway, MODEL, key=second).status == 401, what="the revocation")
    audit = dashboard.ask(f"/api/audit?object=key:{second.split('_')[1]}")["data"]
    assert [event["action"] for event in audit] == ["key.revoke", "key.create"]


def _find_used(dashboard: Pages, id: str) -> dict[str, Any] | None:
    data: dict[str, Any] = dashboard.ask(f"/api/keys/{id}")["data"]
    return data if data["budgets"][0]["requests"] == 1 and data["last_used_at"] else None


@soak_only("dashboard/test_operators_pages.py::test_forms_make_and_change_a_key_an_alias_and_a_group")
def test_groups_and_the_gateway_have_limits(dashboard: Pages, open_page: OpenPage) -> None:
    name = f"team {secrets.token_hex(3)}"
    page = open_page()
    page.goto(f"{dashboard.url}/groups")
    click_through(page, "text=New group")
    page.fill("[name=name]", name)
    page.fill("[name=budgets]", "200/month")
    page.click("button.main")
    assert "Made" in text_of(page, "[role=status].notice") and "$200.00 a month" in text_of(page, ".budgets")
    page.fill("[name=models]", "fireworks")
    page.click("text=Save")
    assert "can match nothing" in text_of(page, "[role=alert]")
    page.goto(f"{dashboard.url}/limits")
    page.fill("[name=max_output_tokens]", "32000")
    click_through(page, "text=Save")
    page.goto(f"{dashboard.url}/groups")
    assert "32,000" in text_of(page, "dl.facts") and name in text_of(page, "table")
    page.goto(f"{dashboard.url}/limits")
    page.fill("[name=max_output_tokens]", "")
    click_through(page, "text=Save")
    assert dashboard.ask("/api/limits")["data"]["max_output_tokens"] is None
    page.goto(f"{dashboard.url}/groups")
    click_through(page, f"text={name}")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("text=Delete the group")
    assert text_of(page, "h1") == f"Group {name}"  # Dismissing the dialog deletes nothing.
    page.once("dialog", lambda dialog: dialog.accept())
    click_through(page, "text=Delete the group")
    assert page.url.endswith("/groups") and name not in page.content()


@soak_only("dashboard/test_operators_pages.py::test_forms_make_and_change_a_key_an_alias_and_a_group")
def test_an_alias_is_made_changed_used_and_deleted(dashboard: Pages, open_page: OpenPage) -> None:
    name = f"fast-{secrets.token_hex(3)}"
    page = open_page()
    page.goto(f"{dashboard.url}/routing/one")
    page.fill("[name=name]", name)
    page.fill("[name=targets]", f"{MODEL} three\nnobodys/model")
    page.click("button.main")
    assert "is not a number" in text_of(page, "[role=alert]")
    page.fill("[name=targets]", f"{MODEL} 3\nfireworks/none-such 1")
    page.fill("[name=overrides]", '{"temperature": 0}')
    click_through(page, "button.main")

    def is_shown() -> bool:  # The worker that renders the page may learn of the alias later than the one that made it.
        page.goto(f"{dashboard.url}/routing")
        shown = text_of(page, "#aliases")
        return all(text in shown for text in (name, "fireworks", "none-such", "sets temperature"))

    wait_until(is_shown, what="the alias on the page")
    told = dashboard.ask(f"/api/aliases/{name}")["data"]
    assert [(each["name"], each["weight"]) for each in told["targets"]] == [(MODEL, 3), ("fireworks/none-such", 1)]
    wait_until(lambda: post_chat(dashboard.gateway, name).status == 200, what="the alias in the worker that answers")
    click_through(page, f"text=Change {name}")
    page.fill("[name=targets]", MODEL)
    page.select_option("[name=sort]", "price")
    click_through(page, "text=Save")
    assert dashboard.ask(f"/api/aliases/{name}")["data"]["sort"] == "price"
    page.goto(f"{dashboard.url}/routing/one?name={name}")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("text=Delete the alias")
    assert "error" not in dashboard.ask(f"/api/aliases/{name}")
    page.once("dialog", lambda dialog: dialog.accept())
    click_through(page, "text=Delete the alias")
    assert page.url.endswith("/routing") and "error" in dashboard.ask(f"/api/aliases/{name}")


def test_a_holder_sees_the_own_key_and_nothing_of_the_gateway(dashboard: Pages) -> None:
    with dashboard.sign_in(dashboard.alice) as session:
        own = dashboard.ask("/v1/key", dashboard.alice)["data"]
        shown = session.get(f"{dashboard.url}/keys", timeout=30).text
        assert own["label"] in shown and "Your key" in shown
        for path in OPERATORS:
            refused = session.get(f"{dashboard.url}/{path}", timeout=30)
            assert refused.status_code == 403 and "for operators" in refused.text, path
        for path in (
            "keys/new",
            "keys/x",
            "keys/x/revoke",
            "keys/x/rotate",
            "holders/x",
            "holders/x/delete",
            "groups/new",
            "limits",
            "budgets/1/end",
        ):
            assert session.post(f"{dashboard.url}/{path}", data={"name": "x"}, timeout=30).status_code == 403, path
        health = session.get(f"{dashboard.url}/health", timeout=30).text
        assert "serving" in health and "Workers" not in health and "Database" not in health
        assert "Settings" not in health and "Integrity" not in health


def test_an_operator_finds_a_key_and_sees_names_of_keys(dashboard: Pages) -> None:
    id = dashboard.alice.split("_")[1]
    with dashboard.sign_in() as session:
        found = session.get(f"{dashboard.url}/keys", params={"search": "ALIC", "state": "works"}, timeout=30).text
        assert f"keys/{id}" in found and f"keys/{dashboard.bob.split('_')[1]}" not in found
        assert 'value="ALIC"' in found and "<option selected>works</option>" in found
        none = session.get(f"{dashboard.url}/keys?search=nobody+has+this", timeout=30).text
        assert "No such key." in none and "No keys yet" not in none
        records = session.get(f"{dashboard.url}/activity", timeout=30).text
        assert f'title="{id}">alice</a>' in records and f">{id}</a>" not in records


def test_what_operators_see_of_the_gateway_without_a_browser(
    dashboard: Pages, far_worker: Callable[[str], None]
) -> None:
    with dashboard.sign_in() as session:

        def show(page: str) -> str:
            return session.get(f"{dashboard.url}/{page}", timeout=30).text

        far_worker("5 s")
        health = show("health")
        assert "a problem of the far worker" in health and "schema current" in health
        assert "&lt;b&gt;no&lt;/b&gt; list" in health and "&lt;i&gt;suspended&lt;/i&gt;" in health
        report = dashboard.ask("/api/activity/integrity")
        integrity = show("integrity")
        assert report["balanced"] and "Balanced." in integrity and f"{report['started']:,}" in integrity
        far_worker("10 min")
        integrity = show("integrity")
        assert "1 worker is missing" in integrity and "bin/gateway activity write-off far" in integrity
        settings = show("settings")
        assert "127.0.0.1/32" in settings and dashboard.gateway.key not in settings


@soak_only("dashboard/test_operators_pages.py::test_what_operators_see_of_the_gateway_without_a_browser")
def test_health_has_what_the_api_says_of_all_workers(
    dashboard: Pages, open_page: OpenPage, far_worker: Callable[[str], None]
) -> None:
    far_worker("5 s")
    workers = dashboard.ask("/api/workers")
    page = open_page()
    page.goto(f"{dashboard.url}/health")
    tiles = [" ".join(tile.split()) for tile in page.locator(".tile").all_inner_texts()]
    assert tiles[1] == f"Workers {len(workers['data'])} on 2 hosts, 2 versions" and len(workers["data"]) == 3
    assert tiles[3].startswith("Database answers schema current")
    breaker = text_of(page, "table:has-text('because of') tbody")
    assert breaker.startswith("chutes account refused all 1 ") and "<i>suspended</i>" in breaker
    assert "a problem of the far worker" in text_of(page, "main") and "<b>no</b> list" in text_of(page, "main")
    assert re.search(r"to 2 h", text_of(page, "table:has-text('last error')"))
    rows = page.locator("table:has-text('this page') tbody tr")
    assert rows.count() == 3 and page.locator("text=this page").count() == 1
    dashboard.database.cut()
    try:
        page.reload()  # It needs no database.
        assert "The other workers cannot be shown" in text_of(page, "main") and "process" in text_of(page, ".tile")
        page.goto(f"{dashboard.url}/integrity")
        assert "database is unavailable" in text_of(page, "main")
    finally:
        dashboard.database.mend()
    wait_until(lambda: page.goto(f"{dashboard.url}/integrity").status == 200, what="the database")


@soak_only("dashboard/test_operators_pages.py::test_what_operators_see_of_the_gateway_without_a_browser")
def test_integrity_has_the_terms_of_the_api_and_names_missing_workers(
    dashboard: Pages, open_page: OpenPage, far_worker: Callable[[str], None]
) -> None:
    page = open_page()
    page.goto(f"{dashboard.url}/integrity")
    report = dashboard.ask("/api/activity/integrity")
    rows = [row.split("\t") for row in page.locator("table").first.locator("tbody tr").all_inner_texts()]
    numbers = {row[0].lstrip("=+ "): int(row[1].replace(",", "")) for row in rows}
    assert (numbers["begun"], numbers["sum"]) == (report["started"], report["started"])
    assert {name: numbers[name] for name in report["outcomes"]} == report["outcomes"]
    assert sum(report["outcomes"].values()) == numbers["sum"] - sum(report[name] for name in OTHERS)
    assert text_of(page, ".notice.good").startswith("Balanced.") and report["balanced"]
    click_through(page, "table >> text=upstream_cut")
    assert page.locator("table.rows tbody tr").count() == report["outcomes"]["upstream_cut"]
    far_worker("10 min")
    page.goto(f"{dashboard.url}/integrity")
    assert "1 worker is missing" in text_of(page, ".notice:has-text('missing')")
    assert "bin/gateway activity write-off far" in text_of(page, "main")


@pytest.fixture
def billed_day(dashboard: Pages) -> Iterator[date]:
    """A day with a bill but no records: yesterday, with a bill that was fetched three days later."""
    engine = create_engine(dashboard.database_url, poolclass=NullPool)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    with engine.begin() as connection:
        connection.execute(
            text("""INSERT INTO bill_day (gateway, day, account, has_costs, fetched_at)
                VALUES ('fireworks', :day, 'accounts/acme', true, now() + interval '3 days')"""),
            {"day": yesterday},
        )
        connection.execute(
            text("""INSERT INTO bill_line (gateway, day, model, prompt_tokens, completion_tokens, cost_usd)
                VALUES ('fireworks', :day, '<b>no</b> model', 70000, 7000, 1.25)"""),
            {"day": yesterday},
        )
    yield yesterday
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE bill_day, bill_line"))


def test_the_bill_has_the_findings_of_the_api(dashboard: Pages, billed_day: date) -> None:
    report = dashboard.ask("/api/bill/reconciliation")
    (finding,) = report["findings"]
    assert (finding["kind"], finding["days"], finding["token_difference"]) == (
        "day_not_recorded",
        [str(billed_day)],
        77000,
    )
    session = dashboard.sign_in()
    shown = session.get(f"{dashboard.url}/bill", timeout=30).text
    assert "Not recorded: all models" in shown and finding["meanings"][0] in html.unescape(shown)
    assert "accounts/acme" in shown and "77,000" in shown and "$1.25" in shown and "0.00 %" in shown
    assert "&lt;b&gt;no&lt;/b&gt; model" in shown and "<b>no</b>" not in shown
    earlier = session.get(f"{dashboard.url}/bill?month=2026-01&gateway=deepinfra", timeout=30)
    assert earlier.status_code == 200 and "Nothing to compare." in earlier.text and "not fetched" in earlier.text


@soak_only("dashboard/test_operators_pages.py::test_what_operators_see_of_the_gateway_without_a_browser")
def test_settings_show_where_they_come_from_and_no_secret(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(f"{dashboard.url}/settings")
    rows = {
        row.split("\t")[0].split("\n")[0]: row.split("\t")[1:] for row in page.locator("tbody tr").all_inner_texts()
    }
    assert rows["GATEWAY_API_KEY"] == ["set", "environment"] and rows["METRICS_TOKEN"] == ["not set", "default"]
    assert rows["TRUSTED_PROXIES"] == ["127.0.0.1/32", "environment"] and rows["BUDGET_STATUS"] == ["402", "default"]
    content = page.content()
    assert dashboard.gateway.key not in content and "fw_" not in content.replace("begin with fw_", "")
