"""Which study a command means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.errors import SettingError, TunesmithError
from tunesmith.record import FILE, Record
from tunesmith.study import Study

_DEPTH = 4  # directories below the one searched
_SKIPPED = ("run-", "checkpoint-", ".", "node_modules", "__pycache__", "wandb", "mlruns")

StudyArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]", help="The study's directory or name; default: the only one below this directory."
    ),
]
TrialArgument = Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def studies_below(directory: Path) -> Iterator[Path]:
    """The directories of all studies below (and in) a directory, those of their runs left out."""
    for folder, inner, names in os.walk(directory):
        depth = len(Path(folder).relative_to(directory).parts)
        inner[:] = sorted(d for d in inner if depth < _DEPTH and not d.startswith(_SKIPPED))
        if FILE in names:
            yield Path(folder)


def study_directory(study: str | None) -> Path:
    """The directory of the study that is meant. Raises SettingError, naming the known ones, when that is not clear."""
    here = Path()
    if study is not None:
        path = Path(study)
        if path.name == FILE:
            path = path.parent
        if (path / FILE).is_file():
            return path
        if path.is_dir():
            return _only(list(studies_below(path)), f"below {path}")
        found = list(studies_below(here))
        named = [p for p in found if study in (_name(p), p.name)]
        if len(named) == 1:
            return named[0]
        raise SettingError(
            f"no study {study!r}: it is no directory, and {len(named) or 'none'} of the {len(found)} below "
            f"{here.resolve()} has that name{_known(found)}"
        )
    if (here / FILE).is_file():
        return here
    return _only(list(studies_below(here)), "below this directory")


def _only(found: list[Path], where: str) -> Path:
    if len(found) == 1:
        return found[0]
    if not found:
        raise SettingError(f"there is no study {where}; give a study's directory")
    raise SettingError(f"there are {len(found)} studies {where}; give one{_known(found)}")


def _known(found: list[Path]) -> str:
    return f": {', '.join(map(str, found[:8]))}{', ...' if len(found) > 8 else ''}" if found else ""  # noqa: PLR2004


def _name(path: Path) -> str | None:
    try:
        with Record.open(path, read_only=True) as record:
            return record.info.name
    except TunesmithError:
        return None


def opened(study: str | None, *, writing: bool = False) -> Study:
    """The study that is meant, open for reading or for changes."""
    return Study(Record.open(study_directory(study), read_only=not writing))
