"""The files for deployment fit the code: dashboards and alerts, units, the image, compose and Heroku's file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
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
from tests.support.image import read_image

# The directory of tools from PyPI.
BIN = str(Path(sys.executable).parent)
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
    """The application with default settings; tests only inspect its parts."""
    yield create_app(load_settings({}))
    use_settings(None)


def load_rules() -> list[dict[str, Any]]:
    """Returns the alert rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def load_queries() -> Iterator[tuple[str, str]]:
    """Yields the title of each panel with each of its expressions, with Grafana's variables replaced."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$provider", ".*")


def get_metric(series: str) -> str:
    """Returns the metric of a series, without the suffixes of a histogram's series."""
    metric = re.sub(r"_(bucket|count|sum)$", "", series)
    return metric if metric in ROWS and ROWS[metric][1] == "histogram" else series


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda file: str(file.name))
def test_every_metric_and_label_of_the_expressions_exists(file: Path) -> None:
    found = [(rule["alert"], rule["expr"]) for rule in load_rules()] if file == RULES else list(load_queries())
    for place, expression in found:
        check_expression(place, expression)


def check_expression(place: str, expression: str) -> None:
    """Fails if the expression has a metric, label or label value that does not exist."""
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
            assert not one.startswith("bin/gateway ") or " ".join(one.split()[1:3]) in commands, one
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
        # Replaces the program and the user, which exist only on an installation.
        (tmp_path / name).write_text(
            unit.replace("/srv/gateway/.venv/bin/gunicorn", "/bin/true").replace("User=gateway\n", "")
        )
    command = ["systemd-analyze", "verify", str(tmp_path / "gateway.service"), str(tmp_path / "gateway.socket")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_has_what_a_gateway_reads_and_no_secret() -> None:
    image = read_image(ROOT)
    names = [name for name, _ in image.steps]
    # The code belongs to root, and an unprivileged user runs it.
    assert names.index("COPY") < names.index("USER") and dict(image.steps)["USER"] == "10001:10001"
    assert {file.partition("/")[0] for file in image.files} == {
        ".env", "CHANGELOG.md", "README.md", "app", "bin", "deploy", "docs", "gunicorn.conf.py", "migrations",
        "requirements.txt", "requirements-idempotency.txt", "requirements-traces.txt", "speedups",
        "wsgi.py",
    }  # fmt: skip
    assert not [file for file in image.files if file.endswith(".pyc") or ".local" in file]
    assert set(image.environment) & set(setting_names()) == {"JOURNAL_DIR"}
    source = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes" in source and not re.search(r"\blatest\b|apt-get|curl |ADD ", source)


@pytest.mark.skipif(shutil.which("hadolint", path=BIN) is None, reason="hadolint is not installed: make check")
def test_hadolint_has_no_objection() -> None:
    assert _run(f"{BIN}/hadolint", str(ROOT / "Dockerfile")) == (0, "")


def test_docker_builds_the_image_and_its_gateway_answers() -> None:
    if shutil.which("docker") is None or _run("docker", "info")[0] != 0:
        pytest.skip("no docker daemon answers")
    code, said = _run("docker", "build", "--tag", "llm-gateway-test", str(ROOT), timeout_s=900)
    assert code == 0, said
    code, said = _run("docker", "run", "--rm", "llm-gateway-test", "bin/gateway", "version")
    assert code == 0 and said.startswith("0.")


def test_compose_connects_what_it_starts() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    gateway, migration, nginx = services["gateway"], services["migration"], services["nginx"]
    settings = {**gateway["environment"]}
    assert settings.keys() <= set(setting_names())
    values = {name: value.replace("${POSTGRES_PASSWORD}", "REPLACE0ME") for name, value in settings.items()}
    loaded = load_settings(values)
    assert loaded.database_url is not None and "@database:5432/gateway" in loaded.database_url
    # The gateway listens where nginx' configuration expects it, and the published port is that of nginx.
    conf = (ROOT / "deploy/nginx.conf").read_text()
    assert f"server {loaded.host}:{loaded.port} " in conf and gateway["network_mode"] == "service:nginx"
    assert nginx["ports"] == ["127.0.0.1:8080:80"] and "listen 80 " in conf and "network_mode" not in migration
    # The gateway starts only after the migration, and gets enough time to stop.
    assert gateway["depends_on"]["migration"] == {"condition": "service_completed_successfully"}
    assert migration["restart"] == "no" and migration["command"] == ["bin/gateway", "db", "upgrade"]
    assert int(gateway["stop_grace_period"].removesuffix("s")) > loaded.graceful_timeout_s
    for service in (gateway, migration):
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    image = read_image(ROOT)
    written = {Path(image.environment[name]) for name in ("JOURNAL_DIR", "PROMETHEUS_MULTIPROC_DIR")}
    (volume,) = gateway["volumes"]
    assert all(path.is_relative_to(volume.partition(":")[2]) for path in written)
    assert ("VOLUME", volume.partition(":")[2]) in image.steps


def test_docker_accepts_the_compose_file() -> None:
    if shutil.which("docker") is None or _run("docker", "compose", "version")[0] != 0:
        pytest.skip("docker has no compose")
    code, said = _run("docker", "compose", "--file", str(ROOT / "compose.yaml"), "config", "--quiet")
    assert (code, said) == (0, "")


def test_heroku_gets_the_settings_that_there_are() -> None:
    app = json.loads((ROOT / "app.json").read_text())
    processes = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert processes == {"release": "flask --app wsgi db upgrade", "web": "gunicorn wsgi:app"}
    assert app["formation"].keys() <= processes.keys() and app["stack"] == "heroku-24"
    assert app["env"].keys() <= set(setting_names())
    for name, rules in app["env"].items():
        # Heroku would refuse an empty text. A required setting has a value or is generated.
        assert rules.keys() <= {"description", "value", "required", "generator"} and rules["description"]
        assert rules.get("required") is False or rules.get("generator") == "secret" or rules.get("value"), name
    load_settings({name: rules["value"] for name, rules in app["env"].items() if "value" in rules})
    assert [addon["plan"].partition(":")[0] for addon in app["addons"]] == ["heroku-postgresql"]


def _run(*command: str, timeout_s: float = 60) -> tuple[int, str]:
    environment = {**os.environ, "POSTGRES_PASSWORD": "REPLACE0ME"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr
