"""The three providers and their gateway, shared by the tests of fallback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fallback.providers import Providers, running_providers
from tests.support.gateways import Gateways


@pytest.fixture(scope="session")
def providers(
    gateways: Gateways, session_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Providers]:
    """Three providers without a history of failures or quality."""
    place: Path = tmp_path_factory.mktemp("fallback")
    with running_providers(gateways, session_database_url, place) as providers:
        yield providers
