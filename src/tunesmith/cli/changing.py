"""Commands that change a study: retry, enqueue, stop, resume, rm, doctor.

While a search runs, its driver takes these changes in between events: each is one transaction on the record.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith import steering
from tunesmith.cli.find import JsonOption, StudyArgument, TrialArgument, opened, study_directory
from tunesmith.cli.shown import print_json
from tunesmith.errors import StudyLockedError, TunesmithError
from tunesmith.folders import LOGS, own_paths
from tunesmith.masking import MASK
from tunesmith.record_lock import Driver, driver_of
from tunesmith.record_repair import Finding, examine, repair
from tunesmith.study import Study


def retry(trial: TrialArgument, study: StudyArgument = None, *, as_json: JsonOption = False) -> None:
    """Let a failed trial run again, with the same values, from its last checkpoint."""
    known = opened(study, writing=True)
    again = steering.retry(known, trial)
    facts = {"trial": again.number, "attempt": again.attempt}
    _say(known, facts, f"trial {trial} waits for attempt {again.attempt}", as_json=as_json)


def enqueue(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study's directory or name.")],
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Parameters; others are proposed.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Add a trial with these parameters; it runs next."""
    known = opened(study, writing=True)
    number, params = steering.enqueue(known, values)
    _say(known, {"trial": number, "params": params}, f"trial {number} waits with {params}", as_json=as_json)


def stop(study: StudyArgument = None, *, as_json: JsonOption = False) -> None:
    """Ask a running search to stop: its trials pause at their next report or step, and resume later."""
    known = opened(study, writing=True)
    driver = steering.stop(known, "asked on the command line")
    if as_json:
        print_json({"study": known.name, "pid": driver.pid, "host": driver.host})
    else:
        typer.echo(f"{driver} will pause its trials at their next report or step; tunesmith resume goes on")


def resume(study: StudyArgument = None, *, as_json: JsonOption = False) -> None:
    """Start a search that was stopped or killed again, with the command that began it."""
    known = opened(study)
    _refuse_driven(known.directory, known.name, "resumed")
    if known.info.settings.get("finished"):
        raise TunesmithError(
            f"study {known.name!r} is finished: {known.summary()}. Retry or enqueue trials first, or run its script with "
            "a larger n_trials and resume=True"
        )
    launch = known.info.settings.get("launch")
    if launch is None:
        raise TunesmithError(
            f"it is not known what started study {known.name!r}; run that script again, and the search goes on"
        )
    command, directory = list(launch["command"]), launch["directory"]
    written = shlex.join(command)
    if launch.get("interactive"):
        raise TunesmithError(
            f"study {known.name!r} was started in a notebook or by a launcher ({written}); start it there again"
        )
    if any(MASK in part for part in command):
        raise TunesmithError(f"the command of study {known.name!r} held a secret, which is not kept; run it: {written}")
    if not Path(directory).is_dir():
        raise TunesmithError(f"study {known.name!r} was started in {directory}, which is gone; run it: {written}")
    typer.echo(json.dumps({"command": command, "directory": directory}) if as_json else f"in {directory}: {written}")
    sys.stdout.flush()
    raise typer.Exit(subprocess.run(command, cwd=directory, check=False).returncode)  # noqa: S603  the user's own


def remove(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study's directory or name.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a study: its record, report, logs and runs with their checkpoints; nothing else in its directory."""
    directory = study_directory(study)
    _refuse_driven(directory, directory.name, "removed")
    doomed = list(own_paths(directory))
    if not yes:
        inside = f"{sum(p.name.startswith('run-') for p in doomed)} run(s)"
        typer.confirm(f"remove the study in {directory} with {inside} and their checkpoints?", abort=True, err=True)
    for path in reversed(doomed):  # the record last: a removal that was cut off can be done again
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for folder in (directory / LOGS, directory):
        if folder.is_dir() and not any(folder.iterdir()) and folder.resolve() != Path.cwd():
            folder.rmdir()
    if as_json:
        print_json({"removed": [str(p) for p in doomed]})
    else:
        typer.echo(f"removed the study in {directory}")


def doctor(
    study: StudyArgument = None,
    *,
    mend: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended; a damaged file is kept beside the new one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for damage: in the record, in checkpoints, and left by a killed search. Exit code 3 when there is some."""
    directory = study_directory(study)
    findings = examine(directory)
    done: Sequence[str] = ()
    if mend and findings:
        _refuse_driven(directory, directory.name, "repaired")
        done, findings = repair(directory), examine(directory)
    if as_json:
        print_json({"findings": [_finding(f) for f in findings], "repaired": list(done)})
    else:
        for line in done:
            typer.echo(f"repaired: {line}")
        for f in findings:
            typer.echo(f"{'can be repaired' if f.mendable else 'problem'}: {f.text}")
        if not findings:
            typer.echo(f"{directory}: sound")
        elif not mend and any(f.mendable for f in findings):
            typer.echo("tunesmith doctor --repair mends what can be repaired")
    if findings:
        raise typer.Exit(3)


def _finding(found: Finding) -> dict[str, Any]:
    return {"text": found.text, "mendable": found.mendable}


def _refuse_driven(directory: Path, name: str, what: str) -> None:
    driver: Driver | None = driver_of(directory)
    if driver is not None:
        raise StudyLockedError(
            f"a study is {what} while nothing drives it, and {driver} drives {name!r}; stop it first"
        )


def _say(study: Study, facts: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"study": study.name, **facts, "activity": steering.activity(study)})
    else:
        typer.echo(f"{text}; {steering.outlook(study)}")


commands: dict[str, Callable[..., None]] = {
    "retry": retry,
    "enqueue": enqueue,
    "stop": stop,
    "resume": resume,
    "rm": remove,
    "doctor": doctor,
}
