"""Commands that write a study in another form: report, dashboard, export."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.find import JsonOption, StudyArgument, opened, studies_below
from tunesmith.errors import SettingError
from tunesmith.folders import REPORT
from tunesmith.report.dashboard import Dashboard
from tunesmith.report.page import write_report

FORMATS = {"csv": ".csv", "parquet": ".parquet", "optuna": ".log", "tensorboard": ".tensorboard"}


def report(
    study: StudyArgument = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; default: report.html in the study's directory.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report page: one file that shows the study in a browser and loads nothing."""
    known = opened(study)
    path = write_report(known, output or known.directory / REPORT)
    typer.echo(json.dumps({"report": str(path)}) if as_json else str(path))


def export(
    study: StudyArgument = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="What ends in .csv, .parquet, .log or .tensorboard; default: trials.FORMAT there."
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="csv, parquet, optuna (a journal for optuna-dashboard) or tensorboard; default: by the name.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the trials as CSV, Parquet, an Optuna journal or for TensorBoard."""
    if form is not None and form not in FORMATS:
        raise SettingError(f"a format is one of {', '.join(FORMATS)}, got {form!r}")
    suffix = FORMATS[form] if form is not None else ".csv"
    if output is not None and form is not None and output.suffix.lower() != suffix:
        raise SettingError(f"the format {form} is written to a file that ends in {suffix}, got {output.name!r}")
    path = opened(study).export(output or Path(f"trials{suffix}"))
    typer.echo(json.dumps({"export": str(path)}) if as_json else str(path))


def dashboard(
    directory: Annotated[Path, typer.Argument(help="Where the studies lie, or one of them.")] = Path(),
    *,
    host: Annotated[
        str, typer.Option("--host", help="The address to serve on; others than this machine need the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8765,
    as_json: JsonOption = False,
) -> None:
    """Serve the report pages of all studies below a directory, live, until Ctrl-C."""
    if not directory.is_dir():
        raise SettingError(f"a dashboard shows the studies below a directory, got {str(directory)!r}, which is none")
    token = os.environ.get("TUNESMITH_TOKEN") or secrets.token_urlsafe(24)
    with Dashboard(lambda: studies_below(directory), host=host, port=port, token=token) as server:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{server.server_port}/?token={token}"
        typer.echo(json.dumps({"url": url}) if as_json else f"{url}\n(Ctrl-C ends it)")
        sys.stdout.flush()
        server.serve_forever()


commands: dict[str, Callable[..., None]] = {"report": report, "dashboard": dashboard, "export": export}
