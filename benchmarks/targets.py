"""The targets of the gateway: ratios within one run, and figures that depend little on the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.results import BARE, COMPILED, ELSEWHERE, GATEWAY, Results

_ONE, _MANY = "requests, 1 connections", "requests, 32 connections"
_CALM, _FULL = "1000 streams, 20 events/s each", "1000 streams, 50 events/s each"
_MOST_CALM, _MOST_FULL = "2000 streams, 20 events/s each", "2000 streams, 50 events/s each"
_SDK = "requests of an SDK behind nginx, 32 connections"
_TRANSLATED = "translated: 500 streams, 20 events/s each"
_COSTS = "requests with limits or a fallback list, 8 connections"
_ALONE = "200 streams, 20 events/s each, beside nothing"
_TLS = "gateway, provider over TLS"
_TWO, _SINGLE = "gateway, two workers, any core", "gateway, one worker, any core"


# Subjects that do not depend on the Python of --python.
_PEERS = ("direct", "nginx", "Envoy", "Portkey", "LiteLLM")


def on_another_python(results: Results) -> Results:
    """Returns the results on the Python of --python, as if it were the only one."""
    names = {name + ELSEWHERE: name for name in (GATEWAY, BARE)}
    return results.of({**{name: name for name in _PEERS}, **names})


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        name: the name of the figure.
        wanted: the bound.
        at_least: whether `wanted` is a lower bound.
        unit: the unit of the figures.
        measure: computes the figure; None if a value that it needs was not measured.
        is_optional: whether a run may lack it, because it needs an optional build.
    """

    name: str
    wanted: float
    at_least: bool
    unit: str
    measure: Callable[[Results], float | None]
    is_optional: bool = False

    def verdict(self, measured: float) -> str:
        """Returns "met" or by how much it is missed."""
        met = measured >= self.wanted if self.at_least else measured <= self.wanted
        return "met" if met else f"missed by {abs(measured / self.wanted - 1):.0%}"


def _median(results: Results, case: str, subject: str, metric: str) -> float | None:
    summary = results.get(case, subject, metric)
    return None if summary is None else summary.median


def _ratio(case: str, metric: str, of: str, to: str, to_case: str = "") -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        above, below = _median(results, case, of, metric), _median(results, to_case or case, to, metric)
        return above / below if above is not None and below else None

    return measure


def _to_best(case: str, metric: str, of: str, to: str) -> Callable[[Results], float | None]:
    """Like `_ratio`, but relative to the best repeat of the other subject, its undisturbed performance."""

    def measure(results: Results) -> float | None:
        above, below = _median(results, case, of, metric), results.get(case, to, metric)
        return above / below.high if above is not None and below else None

    return measure


def _added_ms(metric: str, subject: str = "gateway") -> Callable[[Results], float | None]:
    """The latency that a subject adds to the provider's, at one connection."""

    def measure(results: Results) -> float | None:
        own, direct = (_median(results, _ONE, name, metric) for name in (subject, "direct"))
        return own - direct if own is not None and direct is not None else None

    return measure


def _added_to_litellms(results: Results) -> float | None:
    own, theirs = (_added_ms("latency_p50_ms", subject)(results) for subject in ("gateway", "LiteLLM"))
    return own / theirs if own is not None and theirs else None


def _events_to_litellms_best(results: Results) -> float | None:
    own = _median(results, _FULL, "gateway", "events_per_s")
    theirs = [_median(results, case, "LiteLLM", "events_per_s") for case in results.cases()]
    best = max((value for value in theirs if value is not None), default=None)
    return own / best if own is not None and best else None


def _figure(case: str, subject: str, metric: str) -> Callable[[Results], float | None]:
    return lambda results: _median(results, case, subject, metric)


def _cpu_ms(case: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        microseconds = _median(results, case, "gateway", "cpu_us")
        return None if microseconds is None else microseconds / 1_000

    return measure


def _lag_beside_ms(prompt: str) -> Callable[[Results], float | None]:
    """The delay that twenty prompts a second add to events, 99th percentile."""

    def measure(results: Results) -> float | None:
        case = f"200 streams, 20 events/s each, beside 20/s: {prompt}"
        beside, alone = (_median(results, name, "gateway", "lag_p99_ms") for name in (case, _ALONE))
        return beside - alone if beside is not None and alone is not None else None

    return measure


def _recording_cost(results: Results) -> float | None:
    ratio = _ratio("recording, 32 connections", "answers_per_s", "gateway, recording", "gateway, not recording")(
        results
    )
    return None if ratio is None else (1 - ratio) * 100


TARGETS = [
    Target(
        "requests/s at 32 connections, to a bare Flask route's",
        0.72,
        True,
        "×",
        _ratio(_MANY, "answers_per_s", "gateway", "bare Flask route"),
    ),
    Target(
        "the same with the 19 fields of an SDK behind nginx",
        0.85,
        True,
        "×",
        _ratio(_SDK, "answers_per_s", "gateway", "bare Flask route"),
    ),
    *(
        Target(
            f"requests/s at 32 connections, to {peer}'s best repeat",
            bound,
            True,
            "×",
            _to_best(_MANY, "answers_per_s", "gateway", peer),
        )
        for peer, bound in (("Portkey", 3.3), ("LiteLLM", 27))
    ),
    Target("latency added at one connection, median", 0.3, False, "ms", _added_ms("latency_p50_ms")),
    Target("latency added at one connection, p99", 0.8, False, "ms", _added_ms("latency_p99_ms")),
    Target("median latency added at one connection, to LiteLLM's", 1 / 15, False, "×", _added_to_litellms),
    Target(
        "CPU time of an event of 1,000 streams × 20/s, to nginx'",
        1.9,
        False,
        "×",
        _ratio(_CALM, "cpu_us", "gateway", "nginx"),
    ),
    Target(
        "the same with the compiled path for events",
        1.7,
        False,
        "×",
        _ratio(_CALM, "cpu_us", COMPILED, "nginx"),
        is_optional=True,
    ),
    Target("lag p99 of 1,000 streams × 20/s", 10, False, "ms", _figure(_CALM, "gateway", "lag_p99_ms")),
    Target(
        "lag p99 of 1,000 streams × 20/s, to nginx'", 2.5, False, "×", _ratio(_CALM, "lag_p99_ms", "gateway", "nginx")
    ),
    Target("events missing of 1,000 streams × 20/s", 0, False, "", _figure(_CALM, "gateway", "missing_events")),
    Target(
        "first event of 2,000 streams × 20/s, median",
        20,
        False,
        "ms",
        _figure(_MOST_CALM, "gateway", "first_event_p50_ms"),
    ),
    Target(
        "events/s of 2,000 streams × 50/s, to nginx'",
        0.92,
        True,
        "×",
        _ratio(_MOST_FULL, "events_per_s", "gateway", "nginx"),
    ),
    Target("events/s of 1,000 streams × 50/s, to LiteLLM's best", 16, True, "×", _events_to_litellms_best),
    *(
        Target(
            f"CPU time of an event of {path} to one of chat, 500 streams × 20/s",
            1.35,
            False,
            "×",
            _ratio(_TRANSLATED, "cpu_us", f"gateway, {path}", "gateway, /v1/chat/completions"),
        )
        for path in ("/v1/messages", "/v1/responses")
    ),
    *(
        Target(
            f"CPU time of 100 embeddings in the form that the provider sends ({form}), to a relay of the same bytes",
            1.3,
            False,
            "×",
            _ratio(f"embeddings, {form}", "cpu_us", "gateway", "relay, unparsed"),
        )
        for form in ("numbers", "base64")
    ),
    Target(
        "delay of streams by the conversion of 100 embeddings of 4,096 numbers, p99.9",
        5,
        False,
        "ms",
        _figure("embeddings, numbers to base64, one at a time", "gateway, with a clock", "delay_p999_ms"),
    ),
    *(
        Target(f"CPU time of a {prompt}", bound, False, "ms", _cpu_ms(prompt))
        for prompt, bound in (("1 MB prompt", 2.0), ("1 MB prompt of code", 5.2))
    ),
    *(
        Target(f"lag p99 that 20/s of a {prompt} add to 200 streams", 3, False, "ms", _lag_beside_ms(prompt))
        for prompt in ("1 MB prompt", "1 MB prompt of code")
    ),
    Target("memory of a live stream", 40, False, "KB", _figure("start and memory", "gateway", "kb_per_stream")),
    Target(
        "memory of a live stream, over TLS",
        100,
        False,
        "KB",
        _figure("start and memory", _TLS, "kb_per_stream"),
    ),
    Target("requests/s over TLS to plain", 0.95, True, "×", _ratio(f"TLS: {_MANY}", "answers_per_s", _TLS, "gateway")),
    Target(
        "events/s of 1,000 × 50/s over TLS to plain",
        0.92,
        True,
        "×",
        _ratio(f"TLS: {_FULL}", "events_per_s", _TLS, "gateway"),
    ),
    Target(
        "requests/s of two workers to one",
        1.85,
        True,
        "×",
        _ratio("workers, 64 connections", "answers_per_s", _TWO, _SINGLE),
    ),
    Target("start to first answer", 1.2, False, "s", _figure("start and memory", "gateway", "first_answer_s")),
    Target("requests/s that recording costs", 5, False, "%", _recording_cost),
    *(
        Target(
            f"CPU time of a request with {what}, to one of the other checkout with neither",
            bound,
            False,
            "×",
            _figure(_COSTS, subject, "to_other"),
        )
        for what, subject, bound in (
            ("all limits", "all", 1.05),
            ("a fallback list", "no limits, fallback list", 1.02),
            ("neither", "no limits", 1.01),
        )
    ),
]
