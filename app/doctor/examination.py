"""All checks in order."""

from __future__ import annotations

from collections.abc import Iterator

from app.doctor.database_checks import check_database
from app.doctor.host_checks import check_boot, check_cores, check_journal, check_open_files, check_port
from app.doctor.paid_checks import check_paid_requests
from app.doctor.provider_checks import check_providers
from app.doctor.results import Result, ok
from app.doctor.setting_checks import check_settings
from app.doctor.trace_checks import check_traces
from app.doctor.url_checks import check_url
from app.version import get_version


def examine(url: str | None = None, *, silence_s: int | None = None, paid: bool = False) -> Iterator[Result]:
    """Yields the result of each check. Checks that need a faulty setting are left out.

    Args:
        url: the address at which clients reach the gateway; None skips the checks of it.
        silence_s: how long proxies must tolerate a silent answer, in whole seconds; None for slightly longer than
            streams are ever silent.
        paid: whether to send one request of one token with each provider's key, which the provider bills.
    """
    yield ok("version", get_version())
    mistaken = yield from check_settings()
    yield from check_boot(mistaken)
    for checks in (check_journal, check_open_files, check_cores):
        yield from checks()
    yield from check_port(mistaken)
    yield from check_database(mistaken)
    yield from check_providers(mistaken)
    yield from check_traces(mistaken)
    if paid:
        yield from check_paid_requests()
    if url is not None:
        yield from check_url(url, silence_s)
