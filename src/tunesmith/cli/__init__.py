"""The command line: `tunesmith`. Each command reads or changes a study through its record, as the library does."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tunesmith import __version__
from tunesmith.cli import changing, giving, reading, script
from tunesmith.errors import (
    RecordError,
    SearchFailedError,
    StudyLockedError,
    TunesmithError,
)

# the first that fits an error is the exit code; 0: done, 2: wrong usage, 130: Ctrl-C
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (RecordError, 3),
    (StudyLockedError, 4),
    (SearchFailedError, 5),
    (TunesmithError, 1),
    (OSError, 1),
)

app = typer.Typer(
    name="tunesmith",
    help="See, steer and start hyperparameter searches. STUDY is a directory, or a name below the current one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (reading.commands, giving.commands, changing.commands):
    for name, command in commands.items():
        app.command(name)(command)
app.command("run", context_settings=script.settings)(script.run)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; an error is one readable line on stderr, and an exit code that says of what kind it was."""
    try:
        app()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except (TunesmithError, OSError) as error:
        message = error.strerror if isinstance(error, RecordError) and error.strerror else str(error)
        sys.stderr.write(f"tunesmith: {message}\n")
        sys.exit(next(code for kind, code in EXIT_CODES if isinstance(error, kind)))
