"""Reports errors of commands in one sentence, with exit code 1 and without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from app.config import SettingsError
from app.db import DatabaseError, describe_error, describe_refusal
from app.db.schema import SchemaError
from app.errors import GatewayError
from app.logs import redact
from app.runtime import get_settings


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns a wrong argument, a missing setting or an unavailable database into an error of one sentence.

    Raises:
        click.ClickException: its message is that sentence, with secrets redacted.
    """
    try:
        yield
    except (SchemaError, SettingsError) as error:
        raise click.ClickException(redact(str(error))) from error
    except UnicodeEncodeError as error:
        raise click.ClickException("An argument is not valid UTF-8. Write it in UTF-8.") from error
    except GatewayError as error:
        raise click.ClickException(redact(error.message)) from error
    except DatabaseError as error:
        raise click.ClickException(redact(_explain(error))) from error


def _explain(error: DatabaseError) -> str:
    """Returns what is wrong with DATABASE_URL and the remedy, if that is the reason; otherwise the database's words."""
    # With a second address, the error does not tell which of them was refused.
    refusal = describe_refusal(error) if get_settings().database_direct_url is None else None
    if refusal is not None:
        return f"{refusal[0].upper()}{refusal[1:]}"
    return f"The database request failed: {describe_error(error)}"


def make_output_error(output: Path, error: OSError) -> click.ClickException:
    """Returns the error of a command that cannot write the file of its option --output."""
    return click.ClickException(f"{output} cannot be written: {error.strerror}. Give another path as --output.")
