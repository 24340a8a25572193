"""`bin/gateway journal`: lists the hosts, and delivers or gives up the journals of lost ones."""

from __future__ import annotations

from pathlib import Path

import click

from app.cli.errors import plain_errors
from app.runtime import get_settings
from app.services.administration import adopt_directory, get_command_actor, write_off_host
from app.services.journal import (
    AdoptedJournal,
    describe_other_directory,
    is_journal_directory,
    list_journals,
    select_host_reports,
)


@click.group("journal")
def journal_group() -> None:
    """List hosts and journals, and deliver or give up lost ones."""


@journal_group.command("list")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
def list_command(directory: Path | None) -> None:
    """List all hosts, and the journals in a DIRECTORY.

    Hosts are listed by their last report. DIRECTORY is by default JOURNAL_DIR. REQUESTS of a host that is gone
    are those without a record, as it last reported.
    """
    with plain_errors():
        hosts = select_host_reports()
        other = None
        if directory is None:
            directory = get_settings().journal_dir
            other = describe_other_directory(hosts, directory)
    click.echo(f"{'HOST':24} {'STATE':6} {'SEEN':>12} {'WORKERS':>8} {'MISSING':>8} {'REQUESTS':>9}  JOURNAL_DIR")
    for host in hosts:
        seen = "-" if host.silent_s is None else f"{host.silent_s:,.0f} s ago"
        requests = host.in_flight + host.unshipped
        counts = f"{host.live_workers:>8} {host.missing_workers:>8} {requests:>9,}"
        click.echo(f"{host.host or '-':24} {host.state:6} {seen:>12} {counts}  {host.journal_dir or '-'}")
    click.echo(f"\nJournals in {directory} of this machine:")
    click.echo(f"{'WORKER':32} {'STATE':6} {'RECORDS':>9} {'BYTES':>12}")
    for journal in list_journals(directory):
        state = "in use" if journal.is_in_use else "left"
        click.echo(f"{journal.worker_id} {state:6} {journal.rows:>9,} {journal.bytes:>12,}")
    if other is not None:
        click.echo(f"Warning: {other}", err=True)


@journal_group.command("adopt")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def adopt_command(directory: Path) -> None:
    """Deliver the journals in DIRECTORY to the database. What is delivered is removed from them.

    DIRECTORY is the JOURNAL_DIR of a host that will not come back, or a copy of it, or one worker's directory in it.
    Journals that a process of this machine uses are left alone. The command can be repeated. Exit code 1 if
    DIRECTORY has other files than those of a JOURNAL_DIR.
    """
    adopted = []

    def tell(journal: AdoptedJournal) -> None:
        adopted.append(journal)
        incomplete = "" if journal.is_closed else "; repeat the command to complete it"
        click.echo(f"{journal.worker_id}: {journal.delivered:,} records, {journal.lost:,} of them lost{incomplete}")

    with plain_errors():
        try:
            if not is_journal_directory(directory):
                raise click.ClickException(
                    f"{directory} has other files, but no journal and no file of a JOURNAL_DIR. Give the JOURNAL_DIR"
                    " itself."
                )
            in_use = adopt_directory(get_command_actor(), directory.absolute(), tell)
        except OSError as error:
            raise click.ClickException(
                f"{error.filename} cannot be used ({error.strerror}). Give the directory to this user."
            ) from error
    if in_use:
        click.echo(f"{in_use} journals are in use by processes of this machine, which deliver them.")
    elif not adopted:
        click.echo(f"No journal is left in {directory}: all are delivered.")


@journal_group.command("write-off")
@click.argument("host", metavar="HOST")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def write_off_command(host: str, yes: bool) -> None:
    """Give up the journals of all missing workers of HOST. Its disk is gone for good.

    The requests that they last reported and had not delivered count as unrecorded from then on; later ones are known to
    nobody. If a journal turns up after all, it can still be adopted, which corrects the counts.
    """

    def confirm(missing: dict[str, int]) -> None:
        what = f"{len(missing)} workers of {host} are missing, with at least {sum(missing.values()):,} requests."
        click.confirm(f"{what} Are their journals gone for good?", abort=True)

    with plain_errors():
        requests = write_off_host(get_command_actor(), host, None if yes else confirm)
    click.echo(
        f"Written off: {len(requests)} workers of {host}. At least {sum(requests.values()):,} of their requests have no"
        " record. That is what they had not delivered when they last reported; what they did later is not known."
    )
