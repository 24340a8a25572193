"""Workers for tests of limits: separate runtimes in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.config import load_settings
from app.runtime import Runtime
from app.services.limits import Limits
from tests.support.budget_sums import BudgetSums

MakeLimits = Callable[..., Limits]


@pytest.fixture
def sums(database_url: str) -> BudgetSums:
    """Checks of the sums of budgets in the test's database."""
    return BudgetSums(database_url)


@pytest.fixture
def make_limits(database_url: str, tmp_path: Path) -> Iterator[MakeLimits]:
    """A function `(**settings)` that returns the limits of a new worker."""
    runtimes: list[Runtime] = []

    def make(**settings: str) -> Limits:
        environment = {"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path / "journal"), **settings}
        runtimes.append(Runtime(load_settings(environment)))
        return runtimes[-1].get(Limits)

    yield make
    for runtime in runtimes:
        runtime.close()
