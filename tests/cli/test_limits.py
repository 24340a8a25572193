"""The commands for keys, groups, limits and budgets print what docs/limits.md shows, and refuse mistakes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import text

from app import create_app
from app.config import ROOT, load_settings
from app.db import get_engine
from app.runtime import use_settings
from app.services.administration import AuditFilter, list_keys, select_audit_page
from app.services.administration.own_key import OwnBudget, OwnKey, OwnRates
from tests.support.gateway import base_settings

DOCUMENT = (ROOT / "docs" / "limits.md").read_text()
COMMANDS = DOCUMENT.partition("## HTTP")[0]
BLOCKS: list[tuple[str, str]] = re.findall(r"```(bash|text)\n(.*?)```", COMMANDS, re.DOTALL)

Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Iterator[Run]:
    """A function that runs a command of `flask`, on a fresh database."""
    runner = create_app(load_settings(base_settings(tmp_path, database_url))).test_cli_runner()
    yield lambda line: runner.invoke(args=shlex.split(line))
    use_settings(None)


def _mask(shown: str) -> str:
    """Returns an output with everything masked that differs between runs: ids, keys, times and the user's name."""
    shown = re.sub(r"gw_\S+", "KEY", shown)
    shown = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", shown)
    shown = re.sub(r"\b(?=\w*[A-Z0-9])\w{10}\b", "ID", shown)
    shown = re.sub(r"ends in +\w{4}|(?<=  )\w{4}(?= +TIME)", "FOUR", shown)
    return re.sub(r"cli:\S+", "cli:USER", shown)


def test_the_documented_commands_print_what_is_documented(run: Run) -> None:
    first_id, output = "4fGh2Kl9Pq", ""
    for kind, block in BLOCKS:
        if kind == "text":
            assert _mask(output).split("\n") == _mask(block).split("\n")
            continue
        for line in block.strip().split("\n"):
            if not line.startswith("bin/gateway "):
                continue  # A line of a request.
            command = line.removeprefix("bin/gateway ").replace("4fGh2Kl9Pq", first_id)
            done = run(command)
            assert done.exit_code == 0, (command, done.output)
            output = done.output
            if command.startswith("keys create alice "):
                first_id = output.split("_")[1]


def test_keys_without_limits_are_listed_as_ever(run: Run) -> None:
    made = run("keys create plain")
    key, told = made.output.strip().split("\n")
    id = key.split("_")[1]
    assert told == f"Id {id}, name 'plain'. Store the key now: the gateway keeps only its digest."
    header, row = run("keys list").output.strip("\n").split("\n")
    assert header == f"{'ID':12} {'NAME':24} {'ENDS IN':8} {'CREATED':20} REVOKED"
    assert re.fullmatch(rf"{id}   {'plain':24} {key[-4:]:8} \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  -", row)
    assert run(f"keys revoke {id}").output == f"Revoked {id} (plain). It stops working within 5 seconds.\n"
    assert run("keys revoke none").output == (
        "Error: There is no key with the id 'none'. `bin/gateway keys list` or GET /api/keys shows all.\n"
    )
    actors = {event.actor.partition(":")[0] for event in select_audit_page(AuditFilter(), None, 10).data}
    assert actors == {"cli"}


MISTAKES = {
    "keys create x --budget 50": "such as 50/month",
    "keys create x --budget 5/day --timezone Nowhere": "There is no time zone 'Nowhere'",
    "keys create x --budget 5/week --first-day 9": "from 1 (Monday) to 7",
    "keys create x --warn 80": "Give --budget too",
    "keys create x --budget 5/day --warn 80,200": "whole numbers from 1 to 100",
    "keys create x --rpm 0": "--rpm",
    "keys create x --expires yesterday": "such as 2027-01-31",
    "keys create x --expires 2020-01-01": "is over",
    "keys create x --models deepseek": "'*/deepseek'",
    "keys create x --models ''": "names no model",
    "keys create x --models ' , '": "names no model",
    "keys create x --holder alcie": "There is no holder 'alcie'. Correct the name",
    "keys create x --expires 999999w": "such as 2027-01-31",
    "keys create x --expires 9999-12-31T23:59:59-14:00": "years 1 to 9999",
    "keys show \udcff": "not valid UTF-8",
    "limits set --clear budget": "`budgets end ID`",
    "keys create x --group none": "There is no group 'none'",
    "keys create x --operator --rpm 5": "limits of the gateway alone",
    "keys set none --rpm 5": "There is no key",
    "keys set none": "Nothing to change",
    "keys set none --rpm 5 --clear rpm": "Give one of the two",
    "keys rotate none --overlap soon": "is not a duration",
    "groups set none --rpm 5": "There is no group",
    "groups set none": "Nothing to change",
    "limits set": "Nothing to change",
    "budgets raise 1 much": "is not an amount",
    "budgets raise 1 5": "There is no budget 1",
    "budgets end 1": "There is no budget 1",
}


def test_mistakes_are_refused_and_change_nothing(run: Run) -> None:
    for command, part in MISTAKES.items():
        done = run(command)
        assert done.exit_code in {1, 2} and part in done.output, (command, done.output)
        assert "Traceback" not in done.output
    assert list_keys() == [] and select_audit_page(AuditFilter(), None, 10).data == []


def test_a_change_keeps_what_it_does_not_name(run: Run) -> None:
    assert run("groups create team").exit_code == 0
    budgets = "--budget 5/day --budget 2k-requests/total --timezone Asia/Tokyo --warn 90"
    id = run(f"keys create alice {budgets} --rpm 9 --expires 2w").output.split("_")[1]
    assert "firework" in run(f"keys set {id} --group team --models 'firework/*'").output.split("\n")[0]
    before = list_keys()[0]
    assert run(f"keys set {id} --budget 6/day --name bob").exit_code == 0
    after = list_keys()[0]
    assert (after.name, after.group, after.models) == ("bob", "team", ["firework/*"])
    assert [(each.id, each.timezone, each.warn_percents) for each in after.budgets] == [
        (each.id, "Asia/Tokyo", [90]) for each in before.budgets
    ]
    assert [each.amount for each in after.budgets] == [6, 2000]
    assert "rpm" not in run(f"keys set {id} --clear rpm --clear models --clear expires --clear group").output
    cleared = run(f"keys show {id}").output
    assert all(
        f"{name:20} {value}\n" in cleared for name, value in {"models": "all", "group": "-", "expires": "-"}.items()
    )
    assert run(f"budgets end {after.budgets[0].id}").exit_code == 0
    assert [each.unit for each in list_keys()[0].budgets] == ["requests"]
    assert run("groups show team").output.startswith("id ") and "team" in run("groups list").output
    assert (
        "limits" not in run("limits show").output
        and run("groups delete team --yes").output == "Deleted the group team.\n"
    )
    with get_engine().connect() as connection:
        subjects = connection.execute(text("SELECT kind FROM subject ORDER BY 1")).scalars().all()
    assert subjects == ["gateway", "holder"]


def test_holders_are_shown_renamed_and_deleted(run: Run) -> None:
    run("groups create research")
    key_id = run("keys create phone --holder alice --group research --budget 5/day").stderr.split()[1].rstrip(",")
    run("keys create dave --rpm 5")
    listed = run("holders list --group research").output
    assert "alice" in listed and "dave" not in listed
    lines = [re.split(r"  +", line) for line in run("holders show alice").output.splitlines()]
    assert ["group", "research"] in lines and ["keys", f"{key_id} (phone)"] in lines
    assert ["cost (USD)", "total 0, day 0, week 0, month 0"] in lines
    assert "Alice B." in run("holders rename alice 'Alice B.'").output
    for line, words in {
        "holders show alice": "There is no holder 'alice'.",
        "holders rename dave 'Alice B.'": "There is a holder 'Alice B.' already.",
        "holders delete 'Alice B.'": f"has the key {key_id}. Revoke its keys",
    }.items():
        refused = run(line)
        assert refused.exit_code == 1 and words in refused.output, line
    run(f"keys revoke {key_id}")
    assert run("holders delete 'Alice B.' --yes").output == "Deleted the holder Alice B..\n"
    assert "Alice" not in run("holders list").output


def test_a_new_holder_and_a_replaced_key_that_never_expires_are_told(run: Run) -> None:
    assert "Warning" not in run("keys create alice --rpm 9").output, "its holder has the name of the key"
    made = run("keys create laptop --holder bob --rpm 9")
    assert made.output.endswith("Warning: There was no holder 'bob', so a new one was made.\n")
    assert "Warning" not in run("keys create phone --holder bob").output
    id = made.output.split("_")[1]
    new_id = run(f"keys rotate {id}").output.split("_")[1]
    assert f"Warning: The key {id} was replaced by {new_id}, " in run(f"keys set {id} --clear expires").output
    assert "Warning" not in run(f"keys set {id} --rpm 8").output
    assert "Warning" not in run(f"keys set {new_id} --clear expires").output


def test_what_a_key_sees_of_itself_is_documented_with_all_fields() -> None:
    shown = json.loads(
        re.findall(r"```json\n(.*?)```", DOCUMENT.partition("## What a key sees of itself")[2], re.DOTALL)[0]
    )
    data = shown["data"]
    assert list(data) == list(OwnKey.__struct_fields__)
    assert list(data["budgets"][0]) == list(OwnBudget.__struct_fields__)
    assert list(data["rates"]) == list(OwnRates.__struct_fields__)
