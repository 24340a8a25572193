"""The numbers of a run: a CSV file with one row per value and repeat, summarised as medians and ranges."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names of subjects. ELSEWHERE is the suffix of subjects that run on the interpreter of --python.
GATEWAY, OTHER, BARE, ELSEWHERE = "gateway", "other checkout", "bare Flask route", ", another Python"
# The gateway with the compiled path for events, if `make speedups` has built it. All other subjects run without it.
COMPILED = "gateway, compiled"

_COLUMNS = ("case", "subject", "repeat", "metric", "value")


@dataclass(frozen=True)
class Summary:
    """The median, minimum and maximum of several repeats."""

    median: float
    low: float
    high: float


class Results:
    """All numbers of a run.

    Attributes:
        facts: further facts about the run, name → text.
    """

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self._values: dict[tuple[str, str, str], list[float]] = {}

    def add(self, case: str, subject: str, measured: Mapping[str, Any]) -> None:
        """Adds the values of one subject in one repeat of a case, leaving out those that are not numbers."""
        for metric, value in measured.items():
            if isinstance(value, int | float):
                self._values.setdefault((case, subject, metric), []).append(float(value))

    def get(self, case: str, subject: str, metric: str) -> Summary | None:
        """Returns the summary of one metric, None if it was not measured."""
        values = self._values.get((case, subject, metric))
        return None if not values else Summary(statistics.median(values), min(values), max(values))

    def get_all(self, metric: str) -> list[float]:
        """Returns the values of one metric in all cases."""
        return [value for (_, _, found), values in self._values.items() if found == metric for value in values]

    def of(self, subjects: Mapping[str, str]) -> Results:
        """Returns the values of only these subjects, renamed: old → new."""
        chosen = Results()
        for (case, subject, metric), values in self._values.items():
            if subject in subjects:
                chosen._values[case, subjects[subject], metric] = values
        return chosen

    def subjects(self, case: str) -> list[str]:
        """Returns the subjects of a case, in the order of their first value."""
        return list(dict.fromkeys(subject for found, subject, _ in self._values if found == case))

    def cases(self) -> list[str]:
        """Returns the cases, in the order of their first value."""
        return list(dict.fromkeys(case for case, _, _ in self._values))

    def write(self, path: Path) -> None:
        """Writes everything as CSV; facts are rows whose repeat is empty."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(("run", "", "", name, text) for name, text in self.facts.items())
            for (case, subject, metric), values in self._values.items():
                writer.writerows((case, subject, number, metric, value) for number, value in enumerate(values, start=1))


def read_results(path: Path) -> Results:
    """Returns the results that `Results.write` wrote to `path`."""
    results = Results()
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["repeat"]:
                results.add(row["case"], row["subject"], {row["metric"]: float(row["value"])})
            else:
                results.facts[row["metric"]] = row["value"]
    return results
