"""The benchmark publishes its measurements and shows which targets were missed."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from app.config import ROOT
from benchmarks.cases.chat import SDK_HEAD
from benchmarks.chart import draw_chart
from benchmarks.hosts import PROVIDER_S, WORKERS_PER_HOST, Costs, simulate
from benchmarks.interpreters import describe_build, describe_interpreter, get_interpreter_of
from benchmarks.report import BEGIN, END, render_document, render_tables, render_targets, write_document
from benchmarks.results import Results, read_results
from benchmarks.targets import TARGETS
from benchmarks.trace import Sent, find_way

PUBLISHED = ROOT / "docs" / "benchmarks.csv"
MANY = "requests, 32 connections"


def results_of(values: dict[tuple[str, str, str], list[float]]) -> Results:
    """Returns results with these values, one per repeat, by (case, subject, metric)."""
    results = Results()
    for (case, subject, metric), repeats in values.items():
        for value in repeats:
            results.add(case, subject, {metric: value})
    return results


def test_the_page_and_the_plot_show_the_numbers_of_the_file_beside_them() -> None:
    results = read_results(PUBLISHED)
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == render_document(results)
    assert (ROOT / "docs" / "benchmarks.svg").read_text() == draw_chart(results)


def test_every_target_was_measured_in_the_published_run() -> None:
    results = read_results(PUBLISHED)
    missing = [target for target in TARGETS if target.measure(results) is None]
    assert [target.name for target in missing if not target.is_optional] == []


def test_numbers_survive_the_file(tmp_path: Path) -> None:
    results = results_of({("a case", "a, subject", "cpu_us"): [1.5, 0.1 + 0.2], ("b", "c", "errors"): [0.0]})
    results.facts["machine"] = 'two "cores",\nand a line'
    results.write(tmp_path / "all" / "numbers.csv")
    again = read_results(tmp_path / "all" / "numbers.csv")
    assert again.facts == results.facts and again.cases() == ["a case", "b"]
    assert again.get("a case", "a, subject", "cpu_us") == results.get("a case", "a, subject", "cpu_us")


@pytest.mark.parametrize(("own", "verdict"), [(2_700.0, "| 27 × | met |"), (2_025.0, "| 20.2 × | missed by 25% |")])
def test_a_target_is_judged_by_the_median_and_the_best_of_a_peer(own: float, verdict: str) -> None:
    results = results_of(
        {
            (MANY, "gateway", "answers_per_s"): [1.0, own, own, 9e9, own],
            (MANY, "LiteLLM", "answers_per_s"): [50.0, 100.0, 1.0],
        }
    )
    lines = render_targets(results).splitlines()
    assert next(line for line in lines if "to LiteLLM's" in line and "requests/s" in line).endswith(verdict)
    assert next(line for line in lines if "Portkey" in line).endswith("| not measured | |")


def test_what_another_python_does_is_judged_beside_by_its_own_subjects() -> None:
    rates = {"gateway": 1_800.0, "gateway, another Python": 2_000.0, "bare Flask route": 2_000.0, "nginx": 50_000.0}
    rates |= {"bare Flask route, another Python": 2_500.0, "LiteLLM": 100.0}
    results = results_of({(MANY, subject, "answers_per_s"): [rate] for subject, rate in rates.items()})
    own = "| requests/s at 32 connections, to a bare Flask route's | ≥ 0.72 × | 0.9 × | met |"
    assert own in render_targets(results).splitlines(), "without the fact there is one Python"
    results.facts["another Python"] = "3.11.2 of Debian"
    lines = render_targets(results).splitlines()
    assert f"{own} 0.8 × | met |" in lines
    assert sum("| 18 × | missed by 33% | 20 × | missed by 26% |" in line for line in lines) == 1
    unmeasured = next(line for line in lines if "two workers" in line)
    assert unmeasured.endswith("| not measured | | – | |") and unmeasured.count("|") == lines[1].count("|")


def test_a_python_is_described_by_whose_it_is_and_how_it_was_built() -> None:
    ours = {"version": "3.11.7", "prefix": "/opt/python", "arguments": "'--enable-shared'", "is_shared": True}
    assert describe_build({**ours, "system": "Debian GNU/Linux 12"}) == (
        "3.11.7, not a distribution's (a shared library, built without --enable-optimizations)"
    )
    guided = {**ours, "is_shared": False, "arguments": "'--enable-optimizations' '--with-lto'"}
    assert "linked statically, built with --enable-optimizations" in describe_build(guided)
    assert describe_build({**ours, "prefix": "/usr", "system": "Debian 12"}) == "3.11.7 of Debian 12 (a shared library)"
    assert describe_interpreter().startswith(platform.python_version()), "of the Python that runs this"


def test_a_checkout_runs_on_its_own_python_if_it_has_one(tmp_path: Path) -> None:
    assert get_interpreter_of(tmp_path) == sys.executable
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert get_interpreter_of(tmp_path) == str(own), "the link, which finds the packages beside it"


def test_an_sdks_head_has_nineteen_fields() -> None:
    always = ["Host", "Authorization", "Content-Type", "Content-Length"]
    assert len({name.lower() for name in [*always, *SDK_HEAD]}) == 19


def test_only_the_part_between_the_markers_is_rewritten(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_document(page, results_of({(MANY, "gateway", "answers_per_s"): [1_234.0]}))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text and text.count("| gateway | 1,234 |") == 1


def test_a_traced_request_has_its_own_calls_and_those_of_greenlets_that_it_started() -> None:
    connection, hub, shipper, child = 1, 2, 3, 4
    calls = [
        (0.5, connection, "before.py", "end"),
        (0.6, shipper, "shipper.py", "ship"),
        (1.0, connection, "route.py", "view"),
        (1.1, connection, "service.py", "ask"),
        (1.2, connection, "service.py", "wait"),
        (1.3, shipper, "shipper.py", "ship"),
        (1.4, hub, "relay.py", "pass_on"),
        (1.5, child, "route.py", "respond"),
        (9.0, connection, "after.py", "begin"),
    ]
    way = find_way({"calls": calls, "connection": connection, "hub": hub}, Sent(1.0, 2.0))
    assert way.entries == {"route.py": 2, "service.py": 1, "relay.py": 1}
    assert way.steps == [("route.py", "view"), ("service.py", "ask"), ("relay.py", "pass_on"), ("route.py", "respond")]
    assert way.switches == 3


def test_budgets_have_a_table_of_their_own() -> None:
    measured = {"over_percent": [0.0, 1.5, 1.4], "unused_percent": [0.01, 0.0, 0.0], "cpu_us": [3.0, 2.0, 2.5]}
    values = {("limits", "leases", metric): each for metric, each in measured.items()}
    lines = render_tables(results_of(values)).splitlines()
    assert lines[2] == "| | over the limit % | unused % | CPU µs each |"
    assert lines[4] == "| leases | 1.40 (0.00–1.50) | 0.000 (0.000–0.010) | 2 (2–3) |"


def test_hosts_are_simulated_between_the_two_bounds_that_are_known() -> None:
    costs = Costs(600.0, 18.0, 60.0, 300.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    alone, added_ms = simulate(costs, hosts=1, requests=1)
    assert alone == pytest.approx(1 / (PROVIDER_S + 618e-6)) and added_ms == pytest.approx(0.6)
    for hosts in (1, 2, 3):
        most = hosts * WORKERS_PER_HOST * 1e6 / 600
        throughput, waiting_ms = simulate(costs, hosts, round(2 * most * PROVIDER_S))
        assert 0.98 * most < throughput <= most and waiting_ms > 900, "what is above the capacity waits"
