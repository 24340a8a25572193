"""Reports errors of commands in one sentence, with exit code 1 and without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from app.config import SettingsError
from app.db import DatabaseError, describe_error
from app.db.schema import SchemaError
from app.errors import GatewayError
from app.logs import redact


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
        raise click.ClickException(f"The database request failed: {redact(describe_error(error))}") from error


def make_output_error(output: Path, error: OSError) -> click.ClickException:
    """Returns the error of a command that cannot write the file of its option --output."""
    return click.ClickException(f"{output} cannot be written: {error.strerror}. Give another path as --output.")
