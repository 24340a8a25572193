"""A gateway in this process with a simulated clock and simulated providers; see simulated_hour.py."""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from greenlet import getcurrent, greenlet

from app.runtime import get_component
from app.services.inference import Pipeline, circuit_breaker, dispatch, exchange, target_selection
from app.services.inference.dispatch import Dispatcher
from app.services.models import get_model_list
from app.services.providers import PROVIDERS, Provider
from app.services.quality import quality
from app.services.routing import health
from tests.support.catalogs import (
    BASE_PATHS,
    catalogs_of,
    list_answer,
    pages_answer,
    plain_rows,
    provider_environment,
    root_of,
)
from tests.support.scripted_upstream import ScriptedUpstream


class Clock:
    """A clock on which many tasks wait at the same time. It advances only when all of them wait."""

    def __init__(self) -> None:
        self._began_s = self._now_s = time.monotonic()
        self._waiting: list[tuple[float, int, greenlet]] = []
        self._number = count()

    @property
    def elapsed_s(self) -> float:
        """The seconds since the clock was made."""
        return self._now_s - self._began_s

    def monotonic(self) -> float:
        """Returns the time, as `time.monotonic` does."""
        return self._now_s

    def start(self, at_s: float, task: Callable[[], None]) -> None:
        """Runs a task after that many seconds."""
        self._wait(at_s - self.elapsed_s, greenlet(task))

    def sleep(self, seconds: float) -> None:
        """Suspends the calling task."""
        task = getcurrent()
        self._wait(seconds, task)
        assert task.parent is not None
        task.parent.switch()

    def _wait(self, seconds: float, task: greenlet) -> None:
        heapq.heappush(self._waiting, (self._now_s + max(seconds, 0.0), next(self._number), task))

    def run(self) -> None:
        """Runs until all tasks have ended."""
        while self._waiting:
            self._now_s, _, task = heapq.heappop(self._waiting)
            task.switch()


@contextmanager
def simulated_gateway(
    clock: Clock,
    model: str,
    prices: Mapping[str, tuple[float, float]],
    make_client: Callable[[str, str], Any],
    relay: Callable[..., None],
    settings: Mapping[str, str],
) -> Iterator[None]:
    """The components of a gateway in this process, with this clock.

    Args:
        clock: the clock.
        model: the model that all providers list.
        prices: provider → its prices of prompt and output, in USD per million tokens.
        make_client: makes the substitute for a provider's HTTP client from the provider's name and title.
        relay: replaces `Pipeline._relay`; its first argument is the pipeline.
        settings: further environment variables.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(ScriptedUpstream())
        lines = ['unit = "usd_per_million_tokens"']
        for name, (prompt, completion) in prices.items():
            rows = plain_rows(model)
            lists = pages_answer([rows]) if PROVIDERS[name].is_paged else list_answer(rows)
            upstream.on_path(f"{BASE_PATHS[name]}/models", lists)
            lines.append(f'[{name}."*"]\nprompt = {prompt}\ncompletion = {completion}')
        (place / "prices.toml").write_text("\n".join(lines))
        own = {"PRICE_FILE": str(place / "prices.toml"), "JOURNAL_DIR": str(place / "journal")}
        stack.enter_context(catalogs_of(provider_environment(root_of(upstream), list(prices)) | own | dict(settings)))
        for name in prices:
            get_model_list(PROVIDERS[name])
        fake = SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep)
        for module in (circuit_breaker, dispatch, exchange, health, quality, target_selection):
            stack.enter_context(mock.patch.object(module, "time", fake))
            if module is not quality:
                stack.enter_context(mock.patch.object(module, "log_event", lambda *_, **__: None))
        clients = {name: make_client(name, PROVIDERS[name].title) for name in prices}

        def get_client(provider: Provider) -> Any:
            return clients[provider.name]

        stack.enter_context(
            mock.patch.object(get_component(Dispatcher), "_clients", SimpleNamespace(get_client=get_client))
        )
        stack.enter_context(mock.patch.object(Pipeline, "_relay", lambda *arguments: relay(*arguments)))
        yield
