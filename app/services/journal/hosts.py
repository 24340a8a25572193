"""The hosts by their last report, and the records that journals of lost hosts may still have."""

from __future__ import annotations

import socket
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from app.db import read_connection
from app.db.hosts import HostRow, select_hosts
from app.db.workers import SILENT_AFTER_S

# The most hosts that are listed.
MAX_HOSTS = 200


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """A host, by its name and its JOURNAL_DIR; times are by PostgreSQL's clock.

    Attributes:
        state: live; silent for half a minute, so that it may be cut off or gone; or gone for three minutes.
        live_workers, missing_workers: the numbers of its workers that report, and that no longer do although they have
            not ended.
        last_seen_at, silent_s: its last report, and the seconds since.
        in_flight, unshipped: requests without a record of its missing workers, as they last reported. Later ones may be
            in the journal too.
    """

    host: str | None
    journal_dir: str | None
    state: Literal["live", "silent", "gone"]
    live_workers: int
    missing_workers: int
    last_seen_at: datetime | None
    silent_s: float | None
    in_flight: int
    unshipped: int


def select_host_reports() -> list[HostReport]:
    """Returns the hosts, the longest silent first, at most MAX_HOSTS, in one statement.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return [_make_report(row) for row in select_hosts(connection, MAX_HOSTS)]


def _make_report(row: HostRow) -> HostReport:
    state: Literal["live", "silent", "gone"] = "live"
    if not row.live:
        state = "gone"
    elif row.silent_s is not None and row.silent_s > SILENT_AFTER_S:
        state = "silent"
    return HostReport(
        host=row.host,
        journal_dir=row.journal_dir,
        state=state,
        live_workers=row.live,
        missing_workers=row.missing,
        last_seen_at=row.last_seen_at,
        silent_s=row.silent_s,
        in_flight=row.in_flight,
        unshipped=row.unshipped,
    )


def describe_gone_hosts(hosts: list[HostReport]) -> str | None:
    """Returns the hosts of lost workers, what their journals may have, and the remedy, in words; None without any."""
    gone = [host for host in hosts if host.missing_workers]
    if not gone:
        return None
    names = ", ".join(
        f"{host.journal_dir} of {host.host} (at least {host.in_flight + host.unshipped})" for host in gone[:5]
    )
    more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
    return (
        f"workers are gone, and their journals may hold records: {names}{more}. Start the gateway there again, or bring"
        " the directory to another host and run `bin/gateway journal adopt DIRECTORY` there. If it is lost for"
        " good, run `bin/gateway journal write-off HOST`."
    )


def describe_other_directory(hosts: list[HostReport], directory: Path) -> str | None:
    """Returns that the live workers of this host have other journals than those in `directory`, and the remedy.

    A shell lacks the settings of a systemd unit, so a command may have another JOURNAL_DIR than the gateway. Returns
    None if a live worker of this host has `directory`, or if none lives here.
    """
    here = {host.journal_dir for host in hosts if host.host == socket.gethostname() and host.live_workers}
    others = sorted(each for each in here if each is not None)
    if not others or str(directory.absolute()) in others:
        return None
    return (
        f"live workers of this host have their journals in {', '.join(others)}, and JOURNAL_DIR is {directory} here."
        f" Put JOURNAL_DIR={others[0]} into .env.local, or before the command (`JOURNAL_DIR=… bin/gateway …`)."
    )
