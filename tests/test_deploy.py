"""The dashboard for Grafana and the alert rules for Prometheus name what exists: metrics, labels, pages, commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask

from app import create_app
from app.config import ROOT, load_settings, setting_names
from app.db.tables import OUTCOMES
from app.runtime import use_settings

RULES = ROOT / "deploy/prometheus/gateway.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/gateway.json"
METRICS_DOCUMENT = (ROOT / "docs/metrics.md").read_text()

# `tests/test_house.py` checks that these are the metrics that the code defines.
ROWS = {
    row[0]: row
    for row in re.findall(r"^\| `(gateway_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", METRICS_DOCUMENT, re.MULTILINE)
}
LABELS = {name: set(re.findall(r"`(\w+)`", row[2])) for name, row in ROWS.items()}


@pytest.fixture
def app() -> Iterator[Flask]:
    """The application with default settings: nothing is asked of it but what it consists of."""
    yield create_app(load_settings({}))
    use_settings(None)


def load_rules() -> list[dict[str, Any]]:
    """Returns the alert rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def load_queries() -> Iterator[tuple[str, str]]:
    """Yields the title of a panel and an expression of it, with Grafana's variables replaced."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$provider", ".*")


def get_metric(series: str) -> str:
    """Returns the metric that has a series: those of a histogram have endings."""
    metric = re.sub(r"_(bucket|count|sum)$", "", series)
    return metric if metric in ROWS and ROWS[metric][1] == "histogram" else series


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda file: str(file.name))
def test_every_metric_and_label_of_the_expressions_exists(file: Path) -> None:
    found = [(rule["alert"], rule["expr"]) for rule in load_rules()] if file == RULES else list(load_queries())
    for place, expression in found:
        check_expression(place, expression)


def check_expression(place: str, expression: str) -> None:
    """Fails if the expression has a metric, label or label's value that does not exist."""
    names = re.findall(r"\b(gateway_\w+|up)\b", expression)
    metrics = {get_metric(name) for name in names if name != "up"}
    assert names and metrics <= set(ROWS), (place, metrics - set(ROWS))
    for name, matchers in re.findall(r"\b(gateway_\w+)\{([^}]*)\}", expression):
        metric = get_metric(name)
        for label, texts in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', matchers):
            assert label in LABELS[metric], (metric, label)
            for text in texts.split("|"):
                known = text in OUTCOMES or f"`{text}`" in ROWS[metric][3] or text in {".*", "upstream_.*"}
                assert known, (metric, label, text)
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.findall(r"\w+", labels)}
    is_histogram = any(name.endswith("_bucket") for name in names)
    for metric in metrics:
        assert grouped - {"le"} <= LABELS[metric] and ("le" not in grouped or is_histogram), place


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {get_metric(name) for _, query in load_queries() for name in re.findall(r"\bgateway_\w+", query)}
    assert shown == set(ROWS)


def test_panels_do_not_overlap_and_legends_name_labels_of_their_queries() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24 and taken.setdefault((x, y), panel["title"]) == panel["title"]
        for target in panel.get("targets", []):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), (panel["title"], label)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_says_what_is_wrong_and_where_to_look(app: Flask) -> None:
    routes = [re.sub(r"<[^>]*>", "<>", rule.rule) for rule in app.url_map.iter_rules()]
    commands = {f"{group} {name}" for group, one in app.cli.commands.items() for name in getattr(one, "commands", {})}
    rules = load_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        notes = rule["annotations"]
        assert rule["labels"]["severity"] in {"page", "ticket"} and set(notes) == {"summary", "runbook"}
        for label in re.findall(r"\$labels\.(\w+)", notes["summary"]):
            assert label == "instance" or re.search(rf"by \([^)]*\b{label}\b", rule["expr"]), rule["alert"]
        named = re.findall(r"`([^`]+)`", notes["runbook"])
        assert named, rule["alert"]
        for one in named:
            path = re.search(r"/(?:dashboard|api|ready|health)[^\s?]*", one)
            assert path is None or path[0] in routes, one
            assert not one.startswith("flask ") or " ".join(one.split()[1:3]) in commands, one
        settings = set(re.findall(r"\b[A-Z]{3,}_[A-Z_]+\b", notes["runbook"] + notes["summary"]))
        assert settings <= set(setting_names()) | {"WEB_CONCURRENCY"}, rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, a part of prometheus, is not installed")
def test_prometheus_accepts_the_rules_and_they_fire_when_they_should() -> None:
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULES).replace(".rules.", ".rules.test.")]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name in ("gateway.service", "gateway.socket"):
        unit = (ROOT / "deploy" / name).read_text()
        # What exists only where it is installed.
        (tmp_path / name).write_text(
            unit.replace("/srv/gateway/.venv/bin/gunicorn", "/bin/true").replace("User=gateway\n", "")
        )
    command = ["systemd-analyze", "verify", str(tmp_path / "gateway.service"), str(tmp_path / "gateway.socket")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
