"""The gateways, their doors and the provider that the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults import leaving, own
from tests.faults.cases import SECTIONS, SETTINGS
from tests.faults.leaving import Left, observe_departures
from tests.faults.nginx import Door, doors_of
from tests.faults.observe import Observation, Observer
from tests.faults.own import Ordeal
from tests.faults.translated import APIS, Translated, observe_translated
from tests.support.gateways import Gateways
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.soak import FULL


@pytest.fixture(scope="session")
def faulty_upstream() -> Iterator[ScriptedUpstream]:
    """The provider that misbehaves by model name."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def faults_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the processes that these tests start."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def hurried_doors(
    gateways: Gateways, session_database_url: str, faulty_upstream: ScriptedUpstream, faults_place: Path
) -> Iterator[list[Door]]:
    """The doors of a gateway with short timeouts: Fireworks misbehaves, DeepInfra refuses, Chutes never accepts."""
    with refused_address() as refusing, unanswered_address() as hanging:
        providers = faulty_upstream.settings | {
            "DEEPINFRA_BASE_URL": refusing,
            "DEEPINFRA_API_KEY": "di_test",
            "CHUTES_BASE_URL": hanging,
            "CHUTES_API_KEY": "ch_test",
        }
        with (
            gateways.running(session_database_url, SETTINGS | providers) as gateway,
            doors_of(gateway, faults_place / "nginx") as doors,
        ):
            # In `make test`, other tests cover nginx: those of the gateway's own faults and of the clients' faults.
            yield doors if FULL else doors[:1]


@pytest.fixture(scope="session")
def observations(
    hurried_doors: list[Door], faulty_upstream: ScriptedUpstream, session_database_url: str
) -> dict[str, Observation]:
    """The observation of every fault of the provider, by its name."""
    faults = [fault for section in SECTIONS.values() for fault in section]
    assert len({fault.name for fault in faults}) == len(faults)
    return Observer(hurried_doors, faulty_upstream, session_database_url).observe(faults)


@pytest.fixture(scope="session")
def translated(
    hurried_doors: list[Door], faulty_upstream: ScriptedUpstream, session_database_url: str
) -> dict[str, dict[str, Translated]]:
    """The observations of the provider's faults over each translated API, by the API's SDK and the fault's name."""
    return {api.sdk: observe_translated(api, hurried_doors, faulty_upstream, session_database_url) for api in APIS}


@pytest.fixture(scope="session")
def patient_doors(
    gateways: Gateways, session_database_url: str, faulty_upstream: ScriptedUpstream, faults_place: Path
) -> Iterator[list[Door]]:
    """The doors of a gateway with long limits for its provider and short ones for its clients."""
    with (
        gateways.running(session_database_url, leaving.SETTINGS | faulty_upstream.settings) as gateway,
        doors_of(gateway, faults_place / "patient-nginx", leaving.NGINX_CHANGES) as doors,
    ):
        yield doors


@pytest.fixture(scope="session")
def departures(
    patient_doors: list[Door], faulty_upstream: ScriptedUpstream, session_database_url: str
) -> dict[str, Left]:
    """The result of every client that disconnected or stalled, by the departure's name."""
    return observe_departures(patient_doors, faulty_upstream, session_database_url)


@pytest.fixture(scope="session")
def ordeal(gateways: Gateways, victim: Postgres, faults_place: Path) -> Iterator[Ordeal]:
    """The faults of a gateway itself, on a database server that is stopped meanwhile."""
    url = victim.create_migrated_database()
    with ExitStack() as stack:
        upstreams = {provider: stack.enter_context(ScriptedUpstream()) for provider in own.BROKEN_CATALOGS}
        settings = dict(own.SETTINGS)
        for provider, upstream in upstreams.items():
            upstream.on_path("/models", own.BROKEN_CATALOGS[provider][1])
            settings[f"{provider.upper()}_BASE_URL"] = upstream.base_url
            settings[f"{provider.upper()}_API_KEY"] = "fw_test"
        gateway = stack.enter_context(gateways.running(url, settings))
        doors = stack.enter_context(doors_of(gateway, faults_place / "ordeal-nginx"))
        story = Ordeal(gateway, doors, upstreams, victim, url)
        story.run()
        yield story
