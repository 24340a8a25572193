"""Simulated hours in which the best of three providers degrades: routes, errors, waits and costs.

`python -m benchmarks.degradation` prints the table of docs/routing.md; it takes about a minute.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.simulated_hour import BEGIN_S, BEST, END_S, HOUR_S, MODELS, Hour, Result, Sort, Trouble

# The mean number of requests per second.
PER_SECOND = 2.0

SORTS: tuple[Sort, ...] = ("price", "latency", "throughput")
TROUBLES: tuple[Trouble, ...] = ("30 % fail", "all fail", "slow")


class Summary(NamedTuple):
    """A part of an hour.

    Attributes:
        moved: the share of requests that another provider served, or none.
        errors: the share of callers that got an error.
        wasted: failed attempts per hundred requests.
        waited_s: the median time to the first token, including failed attempts, in seconds.
        cost: the mean cost of a served request, relative to the best provider's.
    """

    moved: float
    errors: float
    wasted: float
    waited_s: float
    cost: float


def summarize(results: Iterable[Result], begin_s: float, end_s: float) -> Summary:
    """Returns the sums of the requests that came in [begin_s, end_s)."""
    chosen = [result for result in results if begin_s <= result.at_s < end_s]
    served = [result for result in chosen if result.served_by is not None]
    number = len(chosen)
    return Summary(
        moved=sum(result.served_by != BEST for result in chosen) / number,
        errors=1 - len(served) / number,
        wasted=100 * sum(len(result.tries) - (result.served_by is not None) for result in chosen) / number,
        waited_s=statistics.median(result.waited_s for result in served),
        cost=statistics.mean(MODELS[str(result.served_by)].cost_usd for result in served) / MODELS[BEST].cost_usd,
    )


_HEAD = (
    "trouble", "`ROUTING_SORT`", "moved in the first minute", "moved later", "errors", "wasted attempts",
    "first token (s)", "cost", "moved after the end",
)  # fmt: skip


def render_table(hours: Iterable[tuple[str, Sort, list[Result]]]) -> str:
    """Returns a Markdown table with a row for each hour: its trouble in words, the sort order, and its results."""
    lines = [_HEAD, ["---"] * len(_HEAD)]
    for trouble, sort, results in hours:
        first, later = summarize(results, BEGIN_S, BEGIN_S + 60), summarize(results, BEGIN_S + 60, END_S)
        whole, after = summarize(results, BEGIN_S, END_S), summarize(results, END_S + 300, HOUR_S)
        shares = [f"{share:.0%}" for share in (first.moved, later.moved)]
        measured = [f"{whole.errors:.1%}", f"{whole.wasted:.0f}", f"{whole.waited_s:.1f}", f"{whole.cost - 1:+.0%}"]
        lines.append([trouble, sort, *shares, *measured, f"{after.moved:.0%}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Prints the table."""
    hours: list[tuple[str, Sort, list[Result]]] = [
        (trouble, sort, Hour(sort, trouble, per_second=PER_SECOND).run()) for trouble in TROUBLES for sort in SORTS
    ]
    impatient = Hour("price", "slow", per_second=PER_SECOND, FALLBACK_AFTER="1").run()
    print(render_table([*hours, ("slow, `FALLBACK_AFTER=1`", "price", impatient)]))


if __name__ == "__main__":
    main()
