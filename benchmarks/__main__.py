"""The command `python -m benchmarks`: runs the cases, prints the tables, and writes the numbers to a file."""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from app.config import ROOT
from app.dev import RunError
from benchmarks.cases import CASES
from benchmarks.chart import draw_chart
from benchmarks.interpreters import describe_interpreter, get_interpreter_of
from benchmarks.machine import CannotRun, describe_machine
from benchmarks.peers import VERSIONS
from benchmarks.report import describe_company, render_tables, render_targets, write_document
from benchmarks.results import Results, read_results
from benchmarks.stage import Options, Stage

_LATEST = ROOT / "benchmarks" / "results" / "latest.csv"
_PEERS = {"nginx": "nginx", "envoy": "Envoy", "litellm": "LiteLLM", "portkey": "Portkey"}
_REPEATS, _QUICK_REPEATS = 5, 2


def main() -> None:
    """Runs the cases that the options choose, and reports the results."""
    options = _parse_options()
    if options.report is not None:
        results = read_results(options.report)
    else:
        results = Results()
        try:
            _run(options, results)
        except (CannotRun, RunError) as error:
            sys.exit(f"The benchmark cannot run: {error}")
        except KeyboardInterrupt:
            print("\nInterrupted; what was measured so far:")
    print("\n" + render_tables(results) + "\n\n" + render_targets(results) + "\n\n" + describe_company(results))
    if options.publish:
        _publish(results)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="half as long, two repeats: for a first look, not to be quoted"
    )
    parser.add_argument("--cases", type=_words(CASES), default=list(CASES), help=f"some of: {','.join(CASES)}")
    parser.add_argument("--peers", type=_words(_PEERS), default=["nginx"], help=f"some of: {','.join(_PEERS)}")
    parser.add_argument("--repeat", type=int, help=f"number of repeats; {_REPEATS} by default")
    parser.add_argument(
        "--against", type=Path, help="another checkout of the gateway, to be measured beside this one, on its .venv"
    )
    parser.add_argument("--python", type=Path, help="another Python on which the gateway and the bare route run too")
    parser.add_argument(
        "--idle-postgres",
        action="store_true",
        help="run PostgreSQL at idle priority: the load and the provider on its core do not wait for it",
    )
    parser.add_argument("--publish", action="store_true", help="write the figures into docs/")
    parser.add_argument("--report", type=Path, help="measure nothing; report the numbers in this CSV file")
    return parser.parse_args()


def _words(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        words = [word for word in text.split(",") if word]
        if unknown := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return words

    return parse


def _run(options: argparse.Namespace, results: Results) -> None:
    repeats = options.repeat or (_QUICK_REPEATS if options.quick else _REPEATS)
    peers = tuple(_PEERS[name] for name in options.peers)
    began_s = time.monotonic()
    with Stage(Options(options.quick, peers, options.against, options.python, options.idle_postgres)) as stage:
        results.facts |= _facts(options, repeats)
        for stage.repeat in range(1, repeats + 1):
            for name in options.cases:
                _run_case(name, stage, results, f"repeat {stage.repeat} of {repeats}: {name}")
        # Peers are installed when they are first needed, so their versions are known only now.
        results.facts |= {f"version of {name}": _version(name) for name in peers if name not in stage.skipped}
        results.facts |= {f"without {name}": reason.splitlines()[0] for name, reason in stage.skipped.items()}
        results.facts["took"] = f"{(time.monotonic() - began_s) / 60:.0f} minutes"
        results.write(_LATEST)


def _run_case(name: str, stage: Stage, results: Results, title: str) -> None:
    began_s = time.monotonic()
    print(title, end="", flush=True)
    try:
        CASES[name](stage, results)
    except CannotRun as error:  # The other cases can still run.
        stage.skipped[f"case {name}"] = str(error)
        print(f"\n{error}", end="", flush=True)
    print(f" ({time.monotonic() - began_s:.0f} s)", flush=True)
    results.write(_LATEST)


def _facts(options: argparse.Namespace, repeats: int) -> dict[str, str]:
    facts = {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "machine": describe_machine(),
        "Python": describe_interpreter(),
        "commit": _describe_commit(ROOT),
        "repeats": str(repeats),
    }
    if options.python is not None:
        facts["another Python"] = describe_interpreter(options.python)
    if options.against is not None:
        facts["other checkout"] = _describe_commit(options.against)
        facts["Python of the other checkout"] = describe_interpreter(get_interpreter_of(options.against))
    if options.idle_postgres:
        facts["PostgreSQL"] = "at idle priority"
    if options.quick:
        facts["quick"] = "half the usual length of each measurement"
    return facts


def _describe_commit(tree: Path) -> str:
    words = ["git", "describe", "--always", "--dirty=, with changes that are not committed"]
    return subprocess.run(words, cwd=tree, capture_output=True, text=True).stdout.strip() or "unknown"


def _version(name: str) -> str:
    if name in VERSIONS:
        return VERSIONS[name]
    said = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=False)
    return said.stderr.strip().rpartition("/")[2]


def _publish(results: Results) -> None:
    docs = ROOT / "docs"
    results.write(docs / "benchmarks.csv")
    (docs / "benchmarks.svg").write_text(draw_chart(results))
    write_document(docs / "benchmarks.md", results)


if __name__ == "__main__":
    main()
